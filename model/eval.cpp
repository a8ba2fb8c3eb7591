// Metrics by generation: exact and json; what all metrics share.

#include "model/eval.h"

#include <map>
#include <optional>

#include "model/generate.h"

namespace sutor {
namespace {

// Answers that are text, as training encodes them, end of text included.
std::vector<int32_t> answer_ids(const std::string& text, const Tokenizer& tok) {
  std::vector<int32_t> ids = tok.encode(text, false);
  if (tok.eos() >= 0) ids.push_back(tok.eos());
  return ids;
}

EvalTask chat_task(const Row& row, const std::string& where, const Tokenizer& tok,
                   const ChatTemplate* chat) {
  size_t last = row.messages.size();
  while (last > 0 && row.messages[last - 1].role != "assistant") --last;
  check(last > 1, "{}: no message before the last answer", where);
  EvalTask t;
  Row before = row;
  before.messages.resize(last - 1);
  t.expected = row.messages[last - 1].content;
  if (!chat) {
    for (const Message& m : before.messages) t.prompt += esft_text(m);
    t.prompt_ids = encode_esft(before, tok).ids;
    t.expected_ids = answer_ids(esft_text(row.messages[last - 1]), tok);
    return t;
  }
  t.prompt = chat->render(before.messages, true, row.more);
  t.prompt_ids = tok.encode(t.prompt, false);
  before.messages.push_back(row.messages[last - 1]);
  std::string whole = chat->render(before.messages, false, row.more);
  t.expected_ids = whole.starts_with(t.prompt) ? tok.encode(whole.substr(t.prompt.size()), false)
                                               : answer_ids(t.expected, tok);
  return t;
}

EvalTask task_of(const Row& r, const std::string& where, const Tokenizer& tok,
                 const ChatTemplate* chat) {
  EvalTask t;
  if (!r.messages.empty()) {
    t = chat_task(r, where, tok, chat);
  } else {
    check(!r.prompt.empty() && r.ids.empty(),
          "{}: no question and answer in this row; allowed: messages, instruction + "
          "conversation, prompt + completion",
          where);
    t.prompt = r.prompt;
    t.expected = r.text;
    t.prompt_ids = tok.encode(r.prompt, true);
    t.expected_ids = answer_ids(r.text, tok);
  }
  check(!t.prompt_ids.empty(), "{}: the prompt has no tokens", where);
  t.line = r.line;
  return t;
}

using Fields = std::map<std::string, const nlohmann::json*>;

void collect(const nlohmann::json& j, const std::string& path, Fields& out) {
  if (!j.is_structured() || j.empty()) {
    out[path] = &j;
  } else if (j.is_object()) {
    for (const auto& [key, value] : j.items())
      collect(value, path.empty() ? key : path + "." + key, out);
  } else {
    for (size_t i = 0; i < j.size(); ++i) collect(j[i], fmt::format("{}[{}]", path, i), out);
  }
}

struct Tally {
  int64_t matched = 0, sides = 0;
  double f1() const {
    return sides == 0 ? 1.0 : 2.0 * static_cast<double>(matched) / static_cast<double>(sides);
  }
};

// Adds both sides' fields to `all` and, without array indices, to `by_field`.
void tally(const Fields& answer, const Fields& expected, Tally& all,
           std::map<std::string, Tally>* by_field) {
  auto add = [&](const std::string& path, bool match) {
    std::string name;
    for (size_t i = 0; i < path.size(); ++i) {
      name += path[i];
      if (path[i] == '[')
        while (i + 1 < path.size() && path[i + 1] != ']') ++i;
    }
    for (Tally* t : {&all, by_field ? &(*by_field)[name] : nullptr}) {
      if (!t) continue;
      t->matched += match;
      ++t->sides;
    }
  };
  for (const auto& [path, value] : answer) {
    auto other = expected.find(path);
    add(path, other != expected.end() && *other->second == *value);
  }
  for (const auto& [path, value] : expected) add(path, false);
}

std::optional<nlohmann::json> parsed(const std::string& text) {
  try {
    parse_json(text, "");  // refuses what nlohmann accepts: duplicate keys, deep nesting
    return nlohmann::json::parse(text);  // keys sorted: order does not count
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

std::string without_stops(std::string s) {  // '.' and '。' at both ends
  const std::string wide = "。";
  for (bool again = true; again;) {
    again = true;
    if (s.starts_with('.')) {
      s.erase(0, 1);
    } else if (s.starts_with(wide)) {
      s.erase(0, wide.size());
    } else if (s.ends_with('.')) {
      s.pop_back();
    } else if (s.ends_with(wide)) {
      s.resize(s.size() - wide.size());
    } else {
      again = false;
    }
  }
  return s;
}

}  // namespace

std::vector<EvalTask> eval_tasks(const DataSet& data, const std::string& file, const Tokenizer& tok,
                                 const ChatTemplate* chat, int64_t* skipped) {
  std::vector<EvalTask> out;
  for (const Row& r : data.rows) {
    try {
      out.push_back(task_of(r, fmt::format("{}:{}", file, r.line), tok, chat));
    } catch (const Error&) {
      if (!skipped) throw;
      ++*skipped;
    }
  }
  check(!out.empty(), "{}: no row has a question and an answer", file);
  return out;
}

EvalResult eval_answers(Ctx& ctx, Model& model, const Tokenizer& tok,
                        const std::vector<EvalTask>& tasks, const EvalOptions& opt) {
  std::vector<int32_t> eos = model.config.eos;
  if (tok.eos() >= 0) eos.push_back(tok.eos());
  EvalResult r;
  int64_t tokens = 0;
  for (const EvalTask& t : tasks) {
    std::vector<int32_t> draft = t.expected_ids;  // a tokenizer may know ids that the model lacks
    for (size_t i = 0; i < draft.size(); ++i)
      if (draft[i] >= model.config.vocab) draft.resize(i);
    Generation g = generate(ctx, model, t.prompt_ids, opt.max_tokens, eos, {}, {}, draft);
    tokens += static_cast<int64_t>(g.ids.size());
    EvalRow row{t.line, t.prompt, t.expected, tok.decode(g.ids, true), 0, {}, {}, {}};
    row.more = {{"tokens", g.ids.size()}};
    if (!g.stopped) row.note = "cut off at max-tokens";
    r.rows.push_back(std::move(row));
    if (opt.progress) opt.progress(r.rows.size(), tasks.size());
  }
  r.more = {{"generated_tokens", tokens}};
  return r;
}

EvalResult eval_exact(Ctx& ctx, Model& model, const Tokenizer& tok,
                      const std::vector<EvalTask>& tasks, const EvalOptions& opt) {
  EvalResult r = eval_answers(ctx, model, tok, tasks, opt);
  r.metric = "exact";
  for (EvalRow& row : r.rows) {
    row.score = stripped(row.answer) == stripped(row.expected);
    r.score += row.score / static_cast<double>(r.rows.size());
  }
  return r;
}

std::optional<nlohmann::json> json_answer(const std::string& text) {
  std::string s = stripped(without_stops(stripped(text)));
  size_t open = s.find("```json");
  if (open != std::string::npos) {
    s = s.substr(open + 7);
    s = stripped(s.substr(0, s.find("```")));
  }
  if (auto j = parsed(s)) return j;
  return parsed(stripped(without_stops(stripped(s.substr(0, s.find('\n'))))));
}

JsonMatch match_json(const nlohmann::json& answer, const nlohmann::json& expected) {
  Fields a, e;
  collect(answer, "", a);
  collect(expected, "", e);
  Tally all;
  tally(a, e, all, nullptr);
  return {answer == expected, all.f1()};
}

EvalResult eval_json(Ctx& ctx, Model& model, const Tokenizer& tok,
                     const std::vector<EvalTask>& tasks, const std::string& file,
                     const EvalOptions& opt) {
  std::vector<nlohmann::json> expected;
  for (const EvalTask& t : tasks) {
    auto j = json_answer(t.expected);
    check(j.has_value(), "{}:{}: the expected answer is no JSON: {}", file, t.line,
          t.expected.substr(0, 60));
    expected.push_back(std::move(*j));
  }
  EvalResult r = eval_answers(ctx, model, tok, tasks, opt);
  r.metric = "json";
  double f1 = 0, n = static_cast<double>(r.rows.size());
  int64_t parsable = 0;
  std::map<std::string, Tally> by_field;
  for (size_t i = 0; i < r.rows.size(); ++i) {
    EvalRow& row = r.rows[i];
    auto answer = json_answer(row.answer);
    Fields a, e;
    if (answer) collect(*answer, "", a);
    collect(expected[i], "", e);
    Tally all;
    tally(a, e, all, &by_field);
    parsable += answer.has_value();
    row.score = answer && *answer == expected[i];
    double row_f1 = answer ? all.f1() : 0.0;
    row.more["f1"] = row_f1;
    if (!answer && row.note.empty()) row.note = "the answer is no JSON";
    r.score += row.score / n;
    f1 += row_f1 / n;
  }
  r.more["f1"] = f1;
  r.more["parsable"] = static_cast<double>(parsable) / n;
  r.more["fields"] = Json::object();
  for (const auto& [name, t] : by_field) r.more["fields"][name] = t.f1();
  return r;
}

Json to_json(const EvalResult& r) {
  Json j{{"metric", r.metric}, {"score", r.score}, {"rows_scored", r.rows.size()}};
  for (const auto& [key, value] : r.more.items()) j[key] = value;
  j["rows"] = Json::array();
  for (const EvalRow& row : r.rows) {
    Json o{{"line", row.line}, {"score", row.score}};
    for (const auto& [key, value] : row.more.items()) o[key] = value;
    if (!row.prompt.empty()) o["prompt"] = row.prompt;
    if (!row.expected.empty()) o["expected"] = row.expected;
    if (!row.prompt.empty()) o["answer"] = row.answer;
    if (!row.logprobs.empty()) o["logprobs"] = row.logprobs;
    if (!row.note.empty()) o["note"] = row.note;
    j["rows"].push_back(std::move(o));
  }
  return j;
}

}  // namespace sutor
