// A test counts as passed when the line after it was reached, not when the exit code is 0: a
// program can leave early.

#include "model/eval_code.h"

#include <random>

#include "model/generate.h"

namespace sutor {

std::string function_body(const std::string& text) {
  size_t end = text.size();
  for (const char* stop : {"\nclass", "\ndef", "\n#", "\nif", "\nprint"})
    end = std::min(end, text.find(stop));
  return text.substr(0, end);
}

bool passes(const Row& row, const std::string& body, const std::string& python,
            const SandboxLimits& limits, std::string& why) {
  std::random_device random;
  std::string mark = fmt::format("passed-{:08x}{:08x}{:08x}", random(), random(), random());
  std::string program = fmt::format("{}{}\n\n{}\n\ncheck({})\nprint('\\n{}')\n", row.prompt, body,
                                    row.test, row.entry_point, mark);
  SandboxResult r = run_python(python, program, limits);
  std::string output = stripped(r.output);
  if (!r.timed_out && r.exit_code == 0 && output.ends_with(mark)) return true;
  why = output.substr(output.find_last_of('\n') + 1).substr(0, 200);
  if (r.timed_out)
    why = fmt::format("ran longer than {} s", limits.seconds);
  else if (why.empty())
    why = fmt::format("exit code {}", r.exit_code);
  return false;
}

EvalResult eval_programs(Ctx& ctx, Model& model, const Tokenizer& tok, const DataSet& data,
                         const EvalOptions& opt, const SandboxLimits& limits) {
  std::string python = find_python(), why;
  run_python(python, "", limits);  // says at once when programs can't be run here
  std::vector<int32_t> eos = model.config.eos;
  if (tok.eos() >= 0) eos.push_back(tok.eos());
  EvalResult r;
  r.metric = "pass@1";
  double n = static_cast<double>(data.rows.size());
  for (const Row& q : data.rows) {
    StreamDecoder decoder(tok, true);
    std::string text;
    generate(ctx, model, tok.encode(q.prompt, true), opt.max_tokens, eos, {}, [&](int32_t id) {
      text += decoder.push(id);
      return function_body(text).size() == text.size();
    });
    EvalRow row{q.line, q.prompt, "", function_body(text + decoder.finish()), 0, {}, {}, {}};
    row.more = {{"task_id", q.task_id}};
    row.score = passes(q, row.answer, python, limits, row.note);
    r.score += row.score / n;
    r.rows.push_back(std::move(row));
    if (opt.progress) opt.progress(r.rows.size(), data.rows.size());
  }
  return r;
}

}  // namespace sutor
