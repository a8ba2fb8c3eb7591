// Rows of .jsonl (one a line) or .json (one list) into messages, prompt + completion, text or ids.
// The row kinds are told apart by their keys; every error names file and line. Test:
// tests/data.cpp, tests/robustness.cpp.

#include "io/dataset.h"

#include "io/file.h"

namespace sutor {
namespace {

std::string text_of(const Json& j, const char* key, const std::string& where) {
  check(j.contains(key) && j[key].is_string(), "{}: {} is missing or no text", where, key);
  return j[key].get<std::string>();
}

std::vector<int32_t> ids_of(const Json& j, const char* key, int64_t lowest,
                            const std::string& where) {
  check(j[key].is_array(), "{}: {} is no list of ids", where, key);
  std::vector<int32_t> out;
  for (const Json& v : j[key]) {
    check(v.is_number_integer() && v.get<int64_t>() >= lowest &&
              v.get<int64_t>() < (int64_t{1} << 31),
          "{}: {} holds {}", where, key, v.dump());
    out.push_back(v.get<int32_t>());
  }
  return out;
}

// {"mask": true} or a number other than 0: the answer does not train.
bool masked(const Json& message, const std::string& where) {
  auto it = message.find("mask");
  if (it == message.end() || it->is_null()) return false;
  check(it->is_boolean() || it->is_number_integer(),
        "{}: mask is {}, allowed: true, false or a whole number", where,
        it->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
  return it->is_boolean() ? it->get<bool>() : *it != 0;
}

void take_messages(Row& r, const Json& j, const std::string& where) {
  r.messages = messages_of(j, where);
  r.more = template_variables_of(j, where);
}

// The text of a message; parts are joined as their texts.
std::string content_of(const Json& m, const std::string& where) {
  auto it = m.find("content");
  if (m.contains("tool_calls") && (it == m.end() || it->is_null())) return "";
  if (it == m.end() || !it->is_array()) return text_of(m, "content", where);
  std::string all;
  for (const Json& part : *it) {
    check(part.is_object() && part.contains("type") && part["type"] == "text",
          "{}: content holds a part that is no {{\"type\":\"text\"}}", where);
    all += text_of(part, "text", where);
  }
  return all;
}

Row parse_question(const Json& j, const std::string& where) {
  Row r;
  check(j.contains("choices") && j["choices"].is_array() && j["choices"].size() >= 2,
        "{}: choices is missing or no list of two or more texts", where);
  for (const Json& c : j["choices"]) {
    check(c.is_string() && !c.get<std::string>().empty(), "{}: choices holds {}, allowed: texts",
          where, c.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
    r.choices.push_back(c.get<std::string>());
  }
  int64_t n = static_cast<int64_t>(r.choices.size());
  check(j.contains("answer"), "{}: answer is missing: a 0-based index or a letter", where);
  const Json& a = j["answer"];
  if (a.is_number_integer())
    r.answer = a.get<int64_t>();
  else if (a.is_string() && a.get<std::string>().size() == 1)
    r.answer = a.get<std::string>()[0] - 'A';
  check(r.answer >= 0 && r.answer < n, "{}: answer is {}, allowed: 0..{} or \"A\"..\"{}\"", where,
        a.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60), n - 1,
        static_cast<char>('A' + std::min<int64_t>(n, 26) - 1));
  if (j.contains("messages")) {
    take_messages(r, j, where);
    check(r.messages.back().role == "user", "{}: the last message must be the user's question",
          where);
  } else {
    r.prompt = text_of(j, j.contains("question") ? "question" : "prompt", where);
  }
  return r;
}

Row parse_program(const Json& j, const std::string& where) {
  Row r;
  r.prompt = text_of(j, "prompt", where);
  r.test = text_of(j, "test", where);
  r.entry_point = text_of(j, "entry_point", where);
  r.task_id = text_of(j, "task_id", where);
  return r;
}

Row parse_prompt(const Json& j, const std::string& where) {
  Row r;
  if (j.contains("messages"))
    take_messages(r, j, where);
  else
    r.prompt = text_of(j, j.contains("text") && !j.contains("prompt") ? "text" : "prompt", where);
  return r;
}

Row parse_text(const Json& j, const std::string& where) {
  Row r;
  if (j.contains("messages")) {
    take_messages(r, j, where);
    bool any = false;
    for (const Message& m : r.messages) any |= m.role == "assistant";
    check(any, "{}: no message of role assistant", where);
    return r;
  }
  // PESC: a row is a text for pre-training when its corpus says anything, else a conversation.
  const bool other = j.contains("text") || j.contains("prompt") || j.contains("input_ids");
  if (j.contains("corpus") && !other) {
    r.text = get_or<std::string>(j, "corpus", "", where);
    if (!r.text.empty()) return r;
  }
  if (j.contains("conversation")) {
    std::string system = get_or<std::string>(j, "instruction", "", where);  // null and "" are none
    if (!system.empty()) r.messages.push_back({"system", system, false});
    check(j["conversation"].is_array() && !j["conversation"].empty(),
          "{}: conversation is no list of turns", where);
    for (const Json& t : j["conversation"]) {
      r.messages.push_back({"user", text_of(t, "input", where), false});
      r.messages.push_back({"assistant", text_of(t, "output", where), true});
    }
    return r;
  }
  if (j.contains("input_ids")) {
    r.ids = ids_of(j, "input_ids", 0, where);
    check(j.contains("labels"), "{}: input_ids without labels", where);
    r.labels = ids_of(j, "labels", -100, where);
    check(!r.ids.empty() && r.ids.size() == r.labels.size(), "{}: {} input_ids and {} labels",
          where, r.ids.size(), r.labels.size());
    return r;
  }
  if (j.contains("prompt") || j.contains("completion")) {
    r.prompt = text_of(j, "prompt", where);
    r.text = text_of(j, "completion", where);
    return r;
  }
  check(j.contains("text"),
        "{}: the row has none of messages, conversation, corpus, prompt + completion, text, "
        "input_ids + labels",
        where);
  r.text = text_of(j, "text", where);
  return r;
}

Row parse_row(const Json& j, RowKind kind, const std::string& where, int64_t line) {
  check(j.is_object(), "{}: the row is no JSON object", where);
  Row r = kind == RowKind::kQuestion  ? parse_question(j, where)
          : kind == RowKind::kProgram ? parse_program(j, where)
          : kind == RowKind::kPrompt  ? parse_prompt(j, where)
                                      : parse_text(j, where);
  r.line = line;
  return r;
}

}  // namespace

std::vector<Message> messages_of(const Json& j, const std::string& where) {
  check(
      j.is_object() && j.contains("messages") && j["messages"].is_array() && !j["messages"].empty(),
      "{}: messages is no list of messages", where);
  std::vector<Message> out;
  for (const Json& m : j["messages"]) {
    check(m.is_object(), "{}: a message is no object", where);
    Message msg{text_of(m, "role", where), content_of(m, where)};
    check(
        msg.role == "system" || msg.role == "user" || msg.role == "assistant" || msg.role == "tool",
        "{}: role \"{}\" is not one of system, user, assistant, tool", where, msg.role);
    msg.train = msg.role == "assistant" && !masked(m, where);
    const auto content = m.find("content");  // may be absent beside tool_calls
    if (m.size() > 2 || content == m.end() || !content->is_string()) {
      msg.raw = m;
      msg.raw.erase("mask");
    }
    out.push_back(std::move(msg));
  }
  return out;
}

Json template_variables_of(const Json& j, const std::string& where) {
  Json out;
  for (const char* key : {"tools", "documents"})
    if (auto it = j.find(key); it != j.end() && !it->is_null()) {
      check(it->is_array(), "{}: {} is no list", where, key);
      out[key] = *it;
    }
  if (auto it = j.find("chat_template_kwargs"); it != j.end() && !it->is_null()) {
    check(it->is_object(), "{}: chat_template_kwargs is no object", where);
    for (const auto& [key, value] : it->items()) out[key] = value;
  }
  return out;
}

DataSet read_dataset(const std::string& file, bool skip_bad, RowKind kind) {
  DataSet d;
  auto take = [&](auto&& make) {
    try {
      d.rows.push_back(make());
    } catch (const Error&) {
      if (!skip_bad) throw;
      ++d.skipped;
    }
  };
  if (file.ends_with(".json")) {
    Json all = read_json_file(file);
    check(all.is_array(), "{}: must be a list of rows", file);
    int64_t n = 0;
    for (const Json& j : all) {
      ++n;
      take([&] { return parse_row(j, kind, fmt::format("{}: row {}", file, n), n); });
    }
  } else {
    std::string text = read_file(file, int64_t{1} << 36);
    std::string_view rest = text;
    for (int64_t line = 1; !rest.empty(); ++line) {
      size_t eol = rest.find('\n');
      std::string_view row = rest.substr(0, eol);
      rest = eol == std::string_view::npos ? std::string_view{} : rest.substr(eol + 1);
      if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      std::string where = fmt::format("{}:{}", file, line);
      take([&] { return parse_row(parse_json(row, where), kind, where, line); });
    }
  }
  check(!d.rows.empty(), "{}: no usable row ({} skipped)", file, d.skipped);
  return d;
}

}  // namespace sutor
