#pragma once
// judge: another model marks each greedy answer from 0 to 10 against the reference, as in the ESFT
// paper's evaluation of summaries, law and translation (arXiv 2407.01906, section 4.1).

#include "model/eval.h"

namespace sutor {

// Asks the judge; returns its reply.
using Judge = std::function<std::string(const std::string& prompt)>;

// {prompt}, {prediction} and {reference} in the rubric are replaced by the row's texts; a rubric
// without the last two is an error. Empty: the built-in one.
EvalResult eval_judge(Ctx& ctx, Model& model, const Tokenizer& tok,
                      const std::vector<EvalTask>& tasks, const std::string& rubric,
                      const Judge& judge, const EvalOptions& opt);

// The mark in a reply: the last number after "score" (with or without ":", "is", "=" or markup) or
// after "总分是"; "8/10" and "8 points" are 8. Empty when there is none or it is not in 0..10.
std::optional<double> judge_mark(const std::string& reply);

}  // namespace sutor
