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

Row parse_row(const Json& j, const std::string& where, int64_t line) {
  Row r;
  r.line = line;
  check(j.is_object(), "{}: the row is no JSON object", where);
  if (j.contains("messages")) {
    check(j["messages"].is_array() && !j["messages"].empty(), "{}: messages is no list of messages",
          where);
    bool any = false;
    for (const Json& m : j["messages"]) {
      check(m.is_object(), "{}: a message is no object", where);
      Message msg{text_of(m, "role", where), text_of(m, "content", where), false};
      check(msg.role == "system" || msg.role == "user" || msg.role == "assistant",
            "{}: role \"{}\" is not one of system, user, assistant", where, msg.role);
      bool mask = m.contains("mask") && !m["mask"].is_null() && m["mask"] != 0;
      msg.train = msg.role == "assistant" && !mask;
      any |= msg.role == "assistant";
      r.messages.push_back(std::move(msg));
    }
    check(any, "{}: no message of role assistant", where);
    return r;
  }
  if (j.contains("conversation")) {
    std::string system = j.contains("instruction") && j["instruction"].is_string()
                             ? j["instruction"].get<std::string>()
                             : "";
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
        "{}: the row has none of messages, conversation, prompt + completion, text, input_ids + "
        "labels",
        where);
  r.text = text_of(j, "text", where);
  return r;
}

}  // namespace

DataSet read_dataset(const std::string& file, bool skip_bad) {
  DataSet d;
  auto take = [&](auto&& make, int64_t line) {
    try {
      d.rows.push_back(make());
    } catch (const Error&) {
      if (!skip_bad) throw;
      ++d.skipped;
    }
    (void)line;
  };
  if (file.ends_with(".json")) {
    Json all = read_json_file(file);
    check(all.is_array(), "{}: must be a list of rows", file);
    int64_t n = 0;
    for (const Json& j : all) {
      ++n;
      take([&] { return parse_row(j, fmt::format("{}: row {}", file, n), n); }, n);
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
      take([&] { return parse_row(parse_json(row, where), where, line); }, line);
    }
  }
  check(!d.rows.empty(), "{}: no usable row ({} skipped)", file, d.skipped);
  return d;
}

}  // namespace sutor
