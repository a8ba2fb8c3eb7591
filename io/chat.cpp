#include "io/chat.h"

#include <ctime>
#include <filesystem>

#include "io/file.h"
#include "io/jinja.h"

namespace sutor {
namespace fs = std::filesystem;

std::optional<ChatTemplate> ChatTemplate::load(const std::string& folder) {
  std::string config_file = folder + "/tokenizer_config.json",
              jinja = folder + "/chat_template.jinja", source;
  Json variables = Json::object(), c;
  if (fs::exists(config_file)) c = read_json_file(config_file);
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    if (!c.contains(key)) continue;
    const Json& v = c[key];
    if (v.is_string())
      variables[key] = v;
    else if (v.is_object() && v.contains("content"))
      variables[key] = v["content"];
  }
  if (fs::exists(jinja)) {  // wins over the inline text
    source = read_file(jinja, 1 << 20);
  } else if (c.contains("chat_template") && c["chat_template"].is_string()) {
    source = c["chat_template"].get<std::string>();
  } else if (c.contains("chat_template") && c["chat_template"].is_array()) {
    for (const Json& t : c["chat_template"])
      if (t.is_object() && t.value("name", "") == "default") source = t.value("template", "");
  }
  if (source.empty()) return std::nullopt;
  return ChatTemplate(source, variables);
}

std::string ChatTemplate::render(const std::vector<Message>& messages,
                                 bool add_generation_prompt) const {
  Json v = variables_;
  v["messages"] = Json::array();
  for (const Message& m : messages)
    v["messages"].push_back({{"role", m.role}, {"content", m.content}});
  v["add_generation_prompt"] = add_generation_prompt;
  return jinja::render(source_, v, std::time(nullptr));
}

std::vector<ChatPart> ChatTemplate::parts(const std::vector<Message>& messages) const {
  std::vector<ChatPart> out;
  std::string done, whole = render(messages, false);
  std::vector<Message> prefix;
  for (const Message& m : messages) {
    if (m.role != "assistant") {
      prefix.push_back(m);
      continue;
    }
    std::string before = render(prefix, true);
    prefix.push_back(m);
    std::string after = prefix.size() == messages.size() ? whole : render(prefix, false);
    check(before.starts_with(done) && after.starts_with(before) && whole.starts_with(after),
          "the chat template renders a conversation's beginning differently from the conversation: "
          "its answers cannot be told apart");
    out.push_back({before.substr(done.size()), false});
    out.push_back({after.substr(before.size()), m.train});
    done = after;
  }
  if (done.size() < whole.size()) out.push_back({whole.substr(done.size()), false});
  return out;
}

}  // namespace sutor
