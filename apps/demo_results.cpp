#include "apps/demo_results.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace sutor {
namespace {

std::vector<std::string> distinct(const std::vector<Outcome>& all,
                                  std::string Outcome::*const field) {
  std::vector<std::string> out;
  for (const Outcome& o : all)
    if (std::find(out.begin(), out.end(), o.*field) == out.end()) out.push_back(o.*field);
  return out;
}

// Empty strings match all.
Spread over(const std::vector<Outcome>& all, const std::string& task, const std::string& method,
            double Outcome::*const value) {
  std::vector<double> v;
  for (const Outcome& o : all)
    if ((task.empty() || o.task == task) && (method.empty() || o.method == method))
      v.push_back(o.*value);
  return spread(v);
}

// Mean and spread over seeds of a method's mean over all tasks.
Spread over_tasks(const std::vector<Outcome>& all, const std::string& method,
                  double Outcome::*const value) {
  std::vector<double> means;
  std::vector<int64_t> seeds;
  for (const Outcome& o : all)
    if (std::find(seeds.begin(), seeds.end(), o.seed) == seeds.end()) seeds.push_back(o.seed);
  for (int64_t seed : seeds) {
    std::vector<double> v;
    for (const Outcome& o : all)
      if (o.method == method && o.seed == seed) v.push_back(o.*value);
    if (!v.empty()) means.push_back(spread(v).mean);
  }
  return spread(means);
}

std::string percent(const Spread& s) {
  std::string text = fmt::format("{:.1f}", 100 * s.mean);
  return s.sd > 0 ? text + fmt::format(" ± {:.1f}", 100 * s.sd) : text;
}

void add_line(std::string& text, const std::vector<std::string>& cells) {
  text += fmt::format("| {} |\n", fmt::join(cells, " | "));
}
void add_head(std::string& text, const std::vector<std::string>& cells) {
  add_line(text, cells);
  add_line(text, std::vector<std::string>(cells.size(), "---"));
}

// Table 1 or 2 of the paper: methods by tasks.
std::string score_table(const std::vector<Outcome>& all, double Outcome::*const value) {
  std::vector<std::string> tasks = distinct(all, &Outcome::task), head{"method"};
  head.insert(head.end(), tasks.begin(), tasks.end());
  if (tasks.size() > 1) head.push_back("mean");
  std::string text;
  add_head(text, head);
  for (const std::string& m : distinct(all, &Outcome::method)) {
    std::vector<std::string> line{m};
    for (const std::string& t : tasks) line.push_back(percent(over(all, t, m, value)));
    if (tasks.size() > 1) line.push_back(percent(over_tasks(all, m, value)));
    add_line(text, line);
  }
  return text + "\n";
}

std::string cost_table(const std::vector<Outcome>& all) {
  std::string text;
  add_head(text, {"method", "trainable parameters", "experts per layer", "stored MB", "tokens/s",
                  "training s", "peak MB"});
  for (const std::string& m : distinct(all, &Outcome::method)) {
    auto mean = [&](double Outcome::*const v) { return over(all, "", m, v).mean; };
    if (mean(&Outcome::trainable) == 0) continue;
    double experts = mean(&Outcome::experts);
    add_line(text, {m, fmt::format("{:.0f}", mean(&Outcome::trainable)),
                    experts > 0 ? fmt::format("{:.1f}", experts) : "–",
                    fmt::format("{:.2f}", mean(&Outcome::stored_bytes) * 1e-6),
                    fmt::format("{:.0f}", mean(&Outcome::tokens_per_s)),
                    fmt::format("{:.1f}", mean(&Outcome::seconds)),
                    fmt::format("{:.0f}", mean(&Outcome::peak_bytes) * 1e-6)});
  }
  return text + "\n";
}

}  // namespace

Spread spread(const std::vector<double>& values) {
  Spread s;
  for (double v : values) s.mean += v / static_cast<double>(values.size());
  for (double v : values) s.sd += (v - s.mean) * (v - s.mean);
  s.sd = values.size() > 1 ? std::sqrt(s.sd / static_cast<double>(values.size() - 1)) : 0;
  return s;
}

Json result_rows(const std::vector<Outcome>& outcomes, const std::string& task) {
  Json rows = Json::array();
  for (const std::string& m : distinct(outcomes, &Outcome::method)) {
    auto mean = [&](double Outcome::*const v) { return over(outcomes, task, m, v).mean; };
    Json row{{"method", m},
             {"task", mean(&Outcome::task_score)},
             {"general", mean(&Outcome::general_score)},
             {"trainable", nullptr},
             {"stored_bytes", nullptr},
             {"tokens_per_s", nullptr}};
    if (mean(&Outcome::trainable) > 0) {
      row["trainable"] = mean(&Outcome::trainable);
      row["stored_bytes"] = mean(&Outcome::stored_bytes);
      row["tokens_per_s"] = mean(&Outcome::tokens_per_s);
    }
    rows.push_back(row);
  }
  return {{"rows", rows}};
}

std::string results_markdown(const std::vector<Outcome>& outcomes,
                             const std::vector<std::string>& settings) {
  std::string text = "## Settings\n\n";
  for (const std::string& s : settings) text += "- " + s + "\n";
  text += "\n## Task score, % exact answers (the paper's Table 1)\n\n" +
          score_table(outcomes, &Outcome::task_score) +
          "## General score, % exact answers over the pre-training tasks, by the task that was "
          "trained (Table 2)\n\n" +
          score_table(outcomes, &Outcome::general_score) + "## Cost, means (Fig. 5)\n\n" +
          cost_table(outcomes);
  return text;
}

}  // namespace sutor
