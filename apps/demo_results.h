#pragma once
// What a run of the demo found, and the two forms it is shown in: JSON rows for the report, and
// docs/results.md in the shape of the ESFT paper's tables (arXiv 2407.01906, Tables 1, 2 and 4), or
// docs/results-pesc.md (make reproduce).

#include <array>
#include <map>
#include <string>
#include <vector>

#include "io/json.h"

namespace sutor {

// One method on one task with one seed.
struct Outcome {
  std::string task, method;
  int64_t seed = 0;
  double task_score = 0, general_score = 0;  // share of exact answers, 0..1
  double trainable = 0, stored_bytes = 0;    // parameters; bytes of the adapter or model written
  double experts = 0;                        // trained per MoE layer, mean; 0: not by experts
  double tokens_per_s = 0, seconds = 0;      // median of the steps; wall time of `sutor train`
  double peak_bytes = 0;
};

// Mean and sample standard deviation (0 for one value).
struct Spread {
  double mean = 0, sd = 0;
};
Spread spread(const std::vector<double>& values);

// Rows for report's results.json: methods of one task in order of appearance, means over seeds.
Json result_rows(const std::vector<Outcome>& outcomes, const std::string& task);

// Of a training run of a PESC model, by step: load_cv, mean of the layers; the balance loss before
// its weight.
struct Balance {
  std::string method;
  int64_t seed = 0;
  std::map<int64_t, double> load_cv, aux;
};
// Means over the first, the middle and the last tenth of the steps.
struct Phase {
  int64_t from = 0, to = 0;
  double load_cv = 0, aux = 0;
};
std::array<Phase, 3> phases(const Balance& b);

// layer -> share of the task's tokens that take each expert: the PESC paper's Fig. 4.
struct Choice {
  std::string method, task;
  std::map<int, std::vector<double>> share;
};

// results.json's row of a method that was trained on all tasks at once: "task" is their mean.
Json mixture_row(const std::vector<Outcome>& outcomes, const std::string& method);

// The tables of docs/results-pesc.md below its heading.
std::string pesc_markdown(const std::vector<Outcome>& outcomes, const std::vector<Balance>& balance,
                          const std::vector<Choice>& choices,
                          const std::vector<std::string>& settings);

// The tables of docs/results.md below its heading; `settings` is a line of text each.
std::string results_markdown(const std::vector<Outcome>& outcomes,
                             const std::vector<std::string>& settings);

}  // namespace sutor
