#include "model/eval_judge.h"

#include <charconv>
#include <string_view>

namespace sutor {
namespace {

const char* const kRubric =
    "Compare an answer with the reference for the same question. Give it marks out of 10.\n"
    "Take marks off for each of these, never below 0:\n"
    "- accuracy: statements that contradict the reference or are made up;\n"
    "- completeness: points of the reference that are missing;\n"
    "- concision: additions that the reference does without, or another style;\n"
    "- names, numbers and dates that differ.\n"
    "Reply with one line: \"accuracy -x, completeness -x, concision -x, details -x, "
    "total score: x points\".\n\n"
    "Question:\n{prompt}\n\nReference:\n{reference}\n\nAnswer:\n{prediction}\n";

// One pass, so that a text that holds "{reference}" is not replaced again.
std::string fill(const std::string& rubric, const EvalRow& row) {
  const std::pair<std::string, const std::string*> names[] = {
      {"{prompt}", &row.prompt}, {"{prediction}", &row.answer}, {"{reference}", &row.expected}};
  std::string out;
  for (size_t i = 0; i < rubric.size();) {
    const std::string* text = nullptr;
    for (const auto& [name, value] : names)
      if (rubric.compare(i, name.size(), name) == 0) {
        text = value;
        out += stripped(*text);
        i += name.size();
        break;
      }
    if (!text) out += rubric[i++];
  }
  return out;
}

}  // namespace

std::optional<double> judge_mark(const std::string& reply) {
  std::string text = reply;
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  std::optional<double> mark;
  for (const std::string word : {"score", "总分"})
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
      const char* p = text.data() + at + word.size();
      const char* end = text.data() + text.size();
      for (bool skipped = true; skipped;) {  // between the word and its number
        skipped = false;
        for (std::string_view filler :
             {" ", "\n", "\t", ":", "=", "*", "_", "is", "：", "是", "为"})
          if (std::string_view(p, end).starts_with(filler)) p += filler.size(), skipped = true;
      }
      double value = 0;
      auto [rest, error] = std::from_chars(p, end, value, std::chars_format::fixed);
      if (error == std::errc()) mark = value;
    }
  if (mark && !(*mark >= 0 && *mark <= 10)) mark.reset();
  return mark;
}

EvalResult eval_judge(Ctx& ctx, Model& model, const Tokenizer& tok,
                      const std::vector<EvalTask>& tasks, const std::string& rubric,
                      const Judge& judge, const EvalOptions& opt) {
  std::string text = rubric.empty() ? kRubric : rubric;
  for (const char* name : {"{prediction}", "{reference}"})
    check(text.find(name) != std::string::npos, "the judge's prompt does not mention {}", name);
  EvalOptions quiet = opt;
  quiet.progress = {};
  EvalResult r = eval_answers(ctx, model, tok, tasks, quiet);
  r.metric = "judge";
  int64_t unmarked = 0;
  for (size_t i = 0; i < r.rows.size(); ++i) {
    EvalRow& row = r.rows[i];
    std::string reply = judge(fill(text, row));
    std::optional<double> mark = judge_mark(reply);
    row.score = mark.value_or(0);
    row.more["reply"] = reply;
    if (!mark) {
      ++unmarked;
      row.note = "the judge gave no mark from 0 to 10: counted as 0";
    }
    r.score += row.score / static_cast<double>(r.rows.size());
    if (opt.progress) opt.progress(i + 1, r.rows.size());
  }
  r.more["unmarked"] = unmarked;
  return r;
}

}  // namespace sutor
