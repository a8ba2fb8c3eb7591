#pragma once
// pass@1 as HumanEval defines it (arXiv 2107.03374): greedy continuation of the prompt, cut at the
// first line that begins something new, runs the row's test in a child process (io/sandbox.h).

#include "io/sandbox.h"
#include "model/eval.h"

namespace sutor {

// Rows of RowKind::kProgram. A row's score is 1 when the program with its test reaches its end.
EvalResult eval_programs(Ctx& ctx, Model& model, const Tokenizer& tok, const DataSet& data,
                         const EvalOptions& opt, const SandboxLimits& limits);

// The continuation before the first of "\nclass", "\ndef", "\n#", "\nif", "\nprint".
std::string function_body(const std::string& text);

// Whether prompt + body passes the test; `why` receives the last line that it printed.
bool passes(const Row& row, const std::string& body, const std::string& python,
            const SandboxLimits& limits, std::string& why);

}  // namespace sutor
