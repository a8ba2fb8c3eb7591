#include "apps/demo_results.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

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

// Table 1 or 2 of the ESFT paper: methods by tasks; with one general score where all are trained at
// once.
std::string score_table(const std::vector<Outcome>& all, double Outcome::*const value,
                        bool general = false) {
  std::vector<std::string> tasks = distinct(all, &Outcome::task), head{"method"};
  head.insert(head.end(), tasks.begin(), tasks.end());
  if (tasks.size() > 1) head.push_back("mean");
  if (general) head.push_back("general");
  std::string text;
  add_head(text, head);
  for (const std::string& m : distinct(all, &Outcome::method)) {
    std::vector<std::string> line{m};
    for (const std::string& t : tasks) line.push_back(percent(over(all, t, m, value)));
    if (tasks.size() > 1) line.push_back(percent(over_tasks(all, m, value)));
    if (general) line.push_back(percent(over_tasks(all, m, &Outcome::general_score)));
    add_line(text, line);
  }
  return text + "\n";
}

std::string cost_table(const std::vector<Outcome>& all) {
  std::string text;
  const bool by_experts = over(all, "", "", &Outcome::experts).mean > 0;
  std::vector<std::string> head{"method",   "trainable parameters", "stored MB",
                                "tokens/s", "training s",           "peak MB"};
  if (by_experts) head.insert(head.begin() + 2, "experts per layer");
  add_head(text, head);
  for (const std::string& m : distinct(all, &Outcome::method)) {
    auto mean = [&](double Outcome::*const v) { return over(all, "", m, v).mean; };
    if (mean(&Outcome::trainable) == 0) continue;
    double experts = mean(&Outcome::experts);
    std::vector<std::string> line{m,
                                  fmt::format("{:.0f}", mean(&Outcome::trainable)),
                                  fmt::format("{:.2f}", mean(&Outcome::stored_bytes) * 1e-6),
                                  fmt::format("{:.0f}", mean(&Outcome::tokens_per_s)),
                                  fmt::format("{:.1f}", mean(&Outcome::seconds)),
                                  fmt::format("{:.0f}", mean(&Outcome::peak_bytes) * 1e-6)};
    if (by_experts)
      line.insert(line.begin() + 2, experts > 0 ? fmt::format("{:.1f}", experts) : "–");
    add_line(text, line);
  }
  return text + "\n";
}

std::string with_spread(const Spread& s) {
  return s.sd > 0 ? fmt::format("{:.3f} ± {:.3f}", s.mean, s.sd) : fmt::format("{:.3f}", s.mean);
}

std::string balance_table(const std::vector<Balance>& all) {
  std::string text;
  std::vector<std::string> methods;
  for (const Balance& b : all)
    if (std::find(methods.begin(), methods.end(), b.method) == methods.end())
      methods.push_back(b.method);
  std::vector<std::string> head{"method", "mean of the steps'"};
  for (const Phase& p : phases(all.front()))
    head.push_back(fmt::format("steps {} to {}", p.from, p.to));
  add_head(text, head);
  for (auto [what, member] : {std::pair("load_cv", &Phase::load_cv), {"balance loss", &Phase::aux}})
    for (const std::string& m : methods) {
      std::vector<std::string> line{m, what};
      for (size_t i = 0; i < 3; ++i) {
        std::vector<double> v;
        for (const Balance& b : all)
          if (b.method == m) v.push_back(phases(b)[i].*member);
        line.push_back(with_spread(spread(v)));
      }
      add_line(text, line);
    }
  return text + "\n";
}

// One layer, as the paper's figure: the middle one.
std::string choice_table(const std::vector<Choice>& all) {
  std::string text;
  auto middle = [](const Choice& c) {
    return std::next(c.share.begin(), static_cast<int64_t>(c.share.size() / 2));
  };
  std::vector<std::string> head{"method", "task"};
  for (size_t e = 0; e < middle(all.front())->second.size(); ++e)
    head.push_back(fmt::format("{}", e));
  add_head(text, head);
  for (const Choice& c : all) {
    std::vector<std::string> line{c.method, c.task};
    for (double x : middle(c)->second) line.push_back(fmt::format("{:.0f}", 100 * x));
    add_line(text, line);
  }
  return fmt::format("Layer {}.\n\n", middle(all.front())->first) + text;
}

double deviation(const std::vector<double>& share) {  // over the mean
  const Spread s = spread(share);
  const double n = static_cast<double>(share.size());
  return s.mean > 0 ? s.sd * std::sqrt((n - 1) / n) / s.mean : 0;
}

// What the balance loss sees is all layers together: experts can be even there and uneven in each.
std::string evenness_table(const std::vector<Choice>& all) {
  std::string text;
  add_head(text, {"method", "mean of the layers", "all layers together"});
  std::vector<std::string> methods;
  for (const Choice& c : all)
    if (std::find(methods.begin(), methods.end(), c.method) == methods.end())
      methods.push_back(c.method);
  for (const std::string& m : methods) {
    std::map<int, std::vector<double>> sum;  // over tasks; the sum of the layers is the last
    for (const Choice& c : all)
      for (const auto& [layer, share] : c.share) {
        if (c.method != m) continue;
        for (int to : {layer, std::numeric_limits<int>::max()}) {
          sum[to].resize(share.size());
          for (size_t e = 0; e < share.size(); ++e) sum[to][e] += share[e];
        }
      }
    std::vector<double> layers;
    for (const auto& [layer, share] : sum) layers.push_back(deviation(share));
    const double together = layers.back();
    layers.pop_back();
    add_line(text,
             {m, fmt::format("{:.2f}", spread(layers).mean), fmt::format("{:.2f}", together)});
  }
  return text + "\n";
}

std::string settings_text(const std::vector<std::string>& settings) {
  std::string text = "## Settings\n\n";
  for (const std::string& s : settings) text += "- " + s + "\n";
  return text;
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
  return settings_text(settings) + "\n## Task score, % exact answers (the paper's Table 1)\n\n" +
         score_table(outcomes, &Outcome::task_score) +
         "## General score, % exact answers over the pre-training tasks, by the task that was "
         "trained (Table 2)\n\n" +
         score_table(outcomes, &Outcome::general_score) + "## Cost, means (Fig. 5)\n\n" +
         cost_table(outcomes);
}

std::array<Phase, 3> phases(const Balance& b) {
  std::array<Phase, 3> out;
  if (b.load_cv.empty()) return out;
  const int64_t last = b.load_cv.rbegin()->first, n = std::max<int64_t>(1, last / 10);
  const int64_t starts[] = {1, (last - n) / 2 + 1, last - n + 1};
  for (size_t i = 0; i < 3; ++i) {
    Phase& p = out[i];
    p.from = starts[i], p.to = starts[i] + n - 1;
    auto mean = [&](const std::map<int64_t, double>& curve) {
      std::vector<double> v;
      for (auto at = curve.lower_bound(p.from); at != curve.end() && at->first <= p.to; ++at)
        v.push_back(at->second);
      return spread(v).mean;
    };
    p.load_cv = mean(b.load_cv), p.aux = mean(b.aux);
  }
  return out;
}

Json mixture_row(const std::vector<Outcome>& outcomes, const std::string& method) {
  std::vector<Outcome> of;
  std::copy_if(outcomes.begin(), outcomes.end(), std::back_inserter(of),
               [&](const Outcome& o) { return o.method == method; });
  Json row = result_rows(of, "")["rows"].at(0);
  for (const std::string& t : distinct(of, &Outcome::task))
    row[t] = over(of, t, "", &Outcome::task_score).mean;
  return row;
}

std::string pesc_markdown(const std::vector<Outcome>& outcomes, const std::vector<Balance>& balance,
                          const std::vector<Choice>& choices,
                          const std::vector<std::string>& settings) {
  std::string text = settings_text(settings) +
                     "\n## Scores, % exact answers: each task, and the pre-training tasks\n\n" +
                     score_table(outcomes, &Outcome::task_score, true);
  if (!balance.empty())
    text +=
        "## The experts' load\n\nload_cv: standard deviation / mean of the tokens per expert in a "
        "step, mean of the layers; 0: even. Balance loss: before its weight, over all layers "
        "together; at its least top-k.\n\n" +
        balance_table(balance);
  if (!choices.empty())
    text += "The same of the trained models, over all tasks:\n\n" + evenness_table(choices);
  text += "## Cost, means\n\n" + cost_table(outcomes);
  if (!choices.empty())
    text += "## Which experts a task takes, % of its choices (Fig. 4)\n\n" + choice_table(choices);
  return text;
}

}  // namespace sutor
