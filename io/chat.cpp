// Finds a folder's chat template, renders conversations, and tells the answers apart: by the
// template's own {% generation %} marks, else as the difference between the text up to an answer
// and the text with it. Sources: transformers' apply_chat_template. Test: tests/data.cpp,
// tests/jinja.cpp.

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

namespace {

// The template marks what the model writes, with {% generation %}: one span per answer.
std::vector<ChatPart> marked_parts(const jinja::Rendered& r, const std::vector<Message>& messages) {
  std::vector<bool> train;
  for (const Message& m : messages)
    if (m.role == "assistant") train.push_back(m.train);
  check(train.size() == r.generation.size(),
        "the chat template marks {} spans with {{% generation %}}, the row has {} answers",
        r.generation.size(), train.size());
  std::vector<ChatPart> out;
  size_t at = 0;
  for (size_t i = 0; i < train.size(); ++i) {
    auto [begin, end] = r.generation[i];
    if (begin > at) out.push_back({r.text.substr(at, begin - at), false});
    if (end > begin) out.push_back({r.text.substr(begin, end - begin), train[i]});
    at = end;
  }
  if (at < r.text.size()) out.push_back({r.text.substr(at), false});
  return out;
}

}  // namespace

Json ChatTemplate::variables_of(const std::vector<Message>& messages,
                                bool add_generation_prompt) const {
  Json v = variables_;
  v["messages"] = Json::array();
  for (const Message& m : messages)
    v["messages"].push_back({{"role", m.role}, {"content", m.content}});
  v["add_generation_prompt"] = add_generation_prompt;
  return v;
}

std::string ChatTemplate::render(const std::vector<Message>& messages,
                                 bool add_generation_prompt) const {
  return jinja::render(source_, variables_of(messages, add_generation_prompt), std::time(nullptr));
}

std::vector<ChatPart> ChatTemplate::parts(const std::vector<Message>& messages) const {
  std::vector<ChatPart> out;
  jinja::Rendered marked =
      jinja::render_spans(source_, variables_of(messages, false), std::time(nullptr));
  if (!marked.generation.empty()) return marked_parts(marked, messages);
  std::string done, whole = std::move(marked.text);
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
