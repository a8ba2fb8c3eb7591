// Finds a folder's chat template, renders conversations, and tells the answers apart: by the
// template's own {% generation %} marks, else as the difference between the text up to an answer
// and the text with it. Sources: transformers' apply_chat_template and render_jinja_template.
// Test: tests/chat.cpp, tests/data.cpp.

#include "io/chat.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "io/file.h"
#include "io/gguf_tokenizer.h"
#include "io/jinja.h"

namespace sutor {
namespace fs = std::filesystem;

namespace {

// The special tokens that a template may name, as transformers hands them over.
void take_tokens(const Json& config, Json& variables) {
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                          "cls_token", "mask_token"}) {
    auto it = config.find(key);
    if (variables.contains(key) || it == config.end()) continue;
    if (it->is_string())
      variables[key] = *it;
    else if (it->is_object() && it->contains("content"))
      variables[key] = (*it)["content"];
  }
}

}  // namespace

std::optional<ChatTemplate> ChatTemplate::load(const std::string& folder) {
  const std::string config_file = folder + "/tokenizer_config.json",
                    map_file = folder + "/special_tokens_map.json",
                    jinja = folder + "/chat_template.jinja",
                    tool_jinja = folder + "/additional_chat_templates/tool_use.jinja";
  Json variables = Json::object(), c = Json::object();
  if (fs::exists(config_file)) c = read_json_file(config_file);
  if (folder.ends_with(".gguf"))
    if (GgufFile file(folder); has_tokenizer(file)) c = gguf_tokenizer(file).config;
  check(c.is_object(), "{}: an object is expected", config_file);
  take_tokens(c, variables);
  if (fs::exists(map_file)) {
    Json map = read_json_file(map_file);
    if (map.is_object()) take_tokens(map, variables);
  }
  std::string source, tool_source;
  auto inlined = c.find("chat_template");
  if (fs::exists(jinja)) {  // wins over the inline text
    source = read_file(jinja, 1 << 20);
    if (fs::exists(tool_jinja)) tool_source = read_file(tool_jinja, 1 << 20);
  } else if (inlined != c.end() && inlined->is_string()) {
    source = inlined->get<std::string>();
  } else if (inlined != c.end() && inlined->is_array()) {
    std::vector<std::string> names;
    for (const Json& t : *inlined) {
      std::string where = config_file + ": chat_template",
                  name = get<std::string>(t, "name", where);
      if (name == "default") source = get<std::string>(t, "template", where);
      if (name == "tool_use") tool_source = get<std::string>(t, "template", where);
      names.push_back(name);
    }
    check(!source.empty(), "{}: chat_template: none is named \"default\", found: {}", config_file,
          fmt::join(names, ", "));
  }
  if (source.empty()) return std::nullopt;
  return ChatTemplate(source, variables, tool_source);
}

namespace {

// The template marks what the model writes, with {% generation %}: any number of spans when every
// answer trains, else one per answer.
std::vector<ChatPart> marked_parts(const jinja::Rendered& r, const std::vector<Message>& messages) {
  std::vector<bool> train;
  for (const Message& m : messages)
    if (m.role == "assistant") train.push_back(m.train);
  if (!train.empty() && std::find(train.begin(), train.end(), false) == train.end())
    train.assign(r.generation.size(), true);
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

size_t common_suffix(const std::string& a, const std::string& b) {
  size_t n = 0;
  while (n < std::min(a.size(), b.size()) && a[a.size() - 1 - n] == b[b.size() - 1 - n]) ++n;
  return n;
}

}  // namespace

void ChatTemplate::set_date(const std::string& iso) {
  int y = 0;
  unsigned m = 0, d = 0;
  const bool shape = iso.size() == 10 && iso[4] == '-' && iso[7] == '-' &&
                     iso.find_first_not_of("0123456789-") == iso.npos &&
                     std::count(iso.begin(), iso.end(), '-') == 2;
  if (shape) y = std::stoi(iso), m = std::stoi(iso.substr(5)), d = std::stoi(iso.substr(8));
  const std::chrono::year_month_day day{std::chrono::year(y), std::chrono::month(m),
                                        std::chrono::day(d)};
  check(shape && day.ok(), "'{}' is no date: YYYY-MM-DD", iso);
  now_ = std::chrono::system_clock::to_time_t(std::chrono::sys_days(day) + std::chrono::hours(12));
}

bool ChatTemplate::asks_date() const {
  return (source_ + tool_source_).find("strftime_now") != std::string::npos;
}

const std::string& ChatTemplate::source(const Json& more) const {
  bool tools = more.is_object() && more.contains("tools");
  return tools && !tool_source_.empty() ? tool_source_ : source_;
}

Json ChatTemplate::variables_of(const std::vector<Message>& messages, bool add_generation_prompt,
                                const Json& more) const {
  Json v = variables_;
  v["messages"] = Json::array();
  for (const Message& m : messages)
    v["messages"].push_back(m.raw.is_null() ? Json{{"role", m.role}, {"content", m.content}}
                                            : m.raw);
  v["add_generation_prompt"] = add_generation_prompt;
  v["tools"] = v["documents"] = nullptr;  // transformers always passes both
  if (more.is_object())
    for (const auto& [key, value] : more.items()) v[key] = value;
  return v;
}

std::string ChatTemplate::render(const std::vector<Message>& messages, bool add_generation_prompt,
                                 const Json& more) const {
  return jinja::render(source(more), variables_of(messages, add_generation_prompt, more), now_);
}

std::string ChatTemplate::render_continued(const std::vector<Message>& messages,
                                           const Json& more) const {
  check(!messages.empty() && messages.back().role == "assistant",
        "only an assistant's last message can be gone on with");
  const std::string tag = "CONTINUE_FINAL_MESSAGE_TAG ", word = tag.substr(0, tag.size() - 1);
  std::vector<Message> tagged = messages;
  tagged.back().content += tag;
  if (!tagged.back().raw.is_null()) tagged.back().raw["content"] = tagged.back().content;
  std::string text = render(tagged, false, more);
  size_t at = text.rfind(word);
  check(at != text.npos,
        "the chat template does not show the last message: it can't be gone on with");
  bool spaced = text.compare(at, tag.size(), tag) == 0;  // else the template strips messages
  text.resize(at);
  if (!spaced) text.resize(text.find_last_not_of(" \t\r\n\f\v") + 1);
  return text;
}

std::vector<ChatPart> ChatTemplate::parts(const std::vector<Message>& messages,
                                          const Json& more) const {
  jinja::Rendered marked =
      jinja::render_spans(source(more), variables_of(messages, false, more), now_);
  if (!marked.generation.empty()) return marked_parts(marked, messages);
  return prefix_parts(messages, marked.text, more);
}

std::vector<ChatPart> ChatTemplate::prefix_parts(const std::vector<Message>& messages,
                                                 const std::string& whole, const Json& more) const {
  constexpr const char* kCannot =
      "the chat template renders a conversation's beginning differently from the conversation: its "
      "answers cannot be told apart";
  std::vector<ChatPart> out;
  size_t done = 0;
  std::vector<Message> prefix;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& m = messages[i];
    if (m.role != "assistant") {
      prefix.push_back(m);
      continue;
    }
    std::string before = render(prefix, true, more);
    prefix.push_back(m);
    std::string after = prefix.size() == messages.size() ? whole : render(prefix, false, more);
    check(before.size() >= done && whole.starts_with(before), "{}", kCannot);
    size_t end = after.size();
    if (!after.starts_with(before) || !whole.starts_with(after)) {
      // The last answer looks different (its reasoning is shown, say): where this one's content
      // ends in the whole is where the text with another content begins to agree; the turn's end
      // behind it comes from the text that ends with this answer.
      auto ending = [&](std::vector<Message> list, const std::string& text) {
        Message& x = list[i];
        size_t last = x.content.find_last_not_of(" \t\r\n\f\v");
        const bool taken = last != std::string::npos && x.content[last] == 'A';
        x.content = std::string(1, taken ? 'B' : 'A');
        if (!x.raw.is_null()) x.raw["content"] = x.content;
        return common_suffix(text, render(list, false, more));
      };
      size_t tail = ending(prefix, after), rest = ending(messages, whole);
      check(rest >= tail &&
                whole.compare(whole.size() - rest, tail, after, after.size() - tail, tail) == 0,
            "{}", kCannot);
      end = whole.size() - rest + tail;
      check(end >= before.size(), "{}", kCannot);
    }
    out.push_back({whole.substr(done, before.size() - done), false});
    out.push_back({whole.substr(before.size(), end - before.size()), m.train});
    done = end;
  }
  if (done < whole.size()) out.push_back({whole.substr(done), false});
  return out;
}

}  // namespace sutor
