#pragma once
// How well a model does a task. Every metric takes rows and gives one EvalRow each and their mean:
//   loss             nats per trained token; the mean is over all trained tokens, not over rows
//   exact            1 when greedy generation from the row's prompt equals its answer, white space
//                    around both removed
//   json             the same compared as JSON values, and F1 over fields
//   multiple-choice  1 when the right choice has the highest log-probability (acc); also divided by
//                    the choice's length in characters (acc_norm), as lm-evaluation-harness does
// Nothing here prints. Programs (pass@1) and judges: model/eval_code.h, model/eval_judge.h.
// Test: tests/eval.cpp.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/data.h"
#include "model/model.h"

namespace sutor {

// A question and its answer. Prompt: of messages, everything before the last assistant message
// through the chat template with its generation prompt, or the ESFT authors' prompt (chat null).
struct EvalTask {
  int64_t line = 0;
  std::string prompt, expected;
  std::vector<int32_t> prompt_ids, expected_ids;  // expected_ids as training would see them
};
// Rows of {"text"} or ready ids have no question: an error with the line.
// With `skipped` such rows are counted there instead.
std::vector<EvalTask> eval_tasks(const DataSet& data, const std::string& file, const Tokenizer& tok,
                                 const ChatTemplate* chat, int64_t* skipped = nullptr);

struct EvalRow {
  int64_t line = 0;
  std::string prompt, expected, answer;  // empty for loss
  double score = 0;
  Json more = Json::object();    // by metric: tokens, f1, acc_norm, ...
  std::vector<double> logprobs;  // multiple-choice: of each choice
  std::string note;              // why the score is 0, where it is not obvious
};

struct EvalResult {
  std::string metric;
  double score = 0;
  Json more = Json::object();  // further figures over all rows; json: "fields" has F1 of each field
  std::vector<EvalRow> rows;
};
// {"metric","score",...,"rows":[{"line","score",...}]}
Json to_json(const EvalResult& r);

struct EvalOptions {
  int64_t max_tokens = 128;  // generated at the most
  int64_t batch = 8;         // rows in one forward pass (loss, multiple-choice)
  std::function<void(size_t done, size_t all)> progress;
};

EvalResult eval_loss(Ctx& ctx, Model& model, const std::vector<Example>& examples,
                     const std::vector<int64_t>& lines, const EvalOptions& opt);
EvalResult eval_exact(Ctx& ctx, Model& model, const Tokenizer& tok,
                      const std::vector<EvalTask>& tasks, const EvalOptions& opt);
EvalResult eval_json(Ctx& ctx, Model& model, const Tokenizer& tok,
                     const std::vector<EvalTask>& tasks, const std::string& file,
                     const EvalOptions& opt);
// Rows of RowKind::kQuestion. The choice follows the prompt after one space; the tokens are those
// of the joined text, split where the prompt's own end (messages: the answer's tokens after the
// prompt's, as in training).
EvalResult eval_choices(Ctx& ctx, Model& model, const Tokenizer& tok, const DataSet& data,
                        const ChatTemplate* chat, const EvalOptions& opt);

// Greedy answers, one row a task (score not set); the tasks' answers are drafts for generate().
EvalResult eval_answers(Ctx& ctx, Model& model, const Tokenizer& tok,
                        const std::vector<EvalTask>& tasks, const EvalOptions& opt);

// Compared as JSON: a field is a leaf with its path of keys and array indices (an empty object or
// array is a leaf too); it matches when the other side has an equal value at that path.
// F1 = 2 matched / (fields of answer + fields of expected).
struct JsonMatch {
  bool equal = false;
  double f1 = 0;
};
// The JSON in a model's answer: white space and full stops around it removed, the inside of a
// ```json fence, else its first line (the ESFT authors' post-processing). Null when none parses.
std::optional<nlohmann::json> json_answer(const std::string& text);
JsonMatch match_json(const nlohmann::json& answer, const nlohmann::json& expected);

}  // namespace sutor
