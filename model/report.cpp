#include "model/report.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "model/report_data.h"
#include "model/report_html.h"

namespace sutor {
namespace {

// The top experts compared between tasks: 6 of 64 in the paper's Fig. 3, of few experts a quarter.
size_t compared(size_t experts) { return std::clamp<size_t>(experts / 4, 1, 6); }
// Layers of at most so many experts are drawn expert by expert.
constexpr size_t kFewExperts = 16;

std::string before_after(const std::vector<ReportRun>& runs) {
  std::string s;
  for (const ReportRun& r : runs) {
    if (!r.results) continue;
    std::vector<std::string> keys;
    for (const Json& row : *r.results)
      for (const auto& [key, v] : row.items())
        if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    std::stable_partition(keys.begin(), keys.end(),
                          [](const std::string& k) { return k == "method"; });
    std::vector<std::string> head;
    for (const std::string& k : keys) {
      head.push_back(k == "stored_bytes"   ? "stored"
                     : k == "tokens_per_s" ? "tokens/s"
                     : k == "trainable"    ? "trainable parameters"
                                           : k);
    }
    std::vector<std::vector<Cell>> cells;
    BarChart bars{r.name + ": scores", {}, {"task", "general"}, {}};
    const Json* first = nullptr;
    bool drawable = false;
    for (const Json& row : *r.results) {
      if (!first) first = &row;
      auto& line = cells.emplace_back();
      for (const std::string& k : keys) {
        const Json v = row.value(k, Json());
        if (!v.is_number()) {
          line.push_back({v.is_null()     ? "\u2013"
                          : v.is_string() ? v.get<std::string>()
                                          : v.dump(),
                          k == "method"});
          continue;
        }
        double x = v.get<double>();
        std::string t = k == "stored_bytes" ? bytes_text(x)
                        : k == "trainable"  ? thousands(x)
                                            : number(x);
        if ((k == "task" || k == "general") && &row != first && first->contains(k) &&
            (*first)[k].is_number())
          t += fmt::format(" ({:+.3g})", x - (*first)[k].get<double>());
        line.push_back({t, false});
      }
      bars.groups.push_back(row["method"].get<std::string>());
      auto& b = bars.values.emplace_back();
      for (const std::string& k : bars.series) {
        b.push_back(row.contains(k) && row[k].is_number() ? row[k].get<double>() : kNoValue);
        drawable |= std::isfinite(b.back());
      }
    }
    s += "<h3>" + escape_xml(r.name) + "</h3>\n";
    s += cells.empty() ? note("results.json has no rows.") : table(head, cells);
    if (drawable)
      s += figure(draw(bars),
                  "task: score on the tuned task; general: what is kept of the rest. In brackets: "
                  "change against the first row.");
  }
  return s + (s.empty() ? note("No results.json in any folder.")
                        : missing(runs, "results.json",
                                  [](const ReportRun& r) { return r.results.has_value(); }));
}

using Curve = std::map<int64_t, double>;

// One value of every log, by step; empty where no log has it.
std::string curves(const std::vector<ReportRun>& runs, const char* title, const char* y,
                   Curve TrainLog::*member, const char* caption) {
  LineChart chart{title, "step", y, {}, false};
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!runs[i].log || ((*runs[i].log).*member).empty()) continue;
    const Curve& line = (*runs[i].log).*member;
    int color = static_cast<int>(i);
    chart.lines.push_back({runs[i].name, {line.begin(), line.end()}, {}, color, color >= 8, false});
  }
  return chart.lines.empty() ? "" : figure(draw(chart), caption);
}

std::string loss_curves(const std::vector<ReportRun>& runs) {
  std::string notes;
  for (const ReportRun& r : runs)
    if (r.log && !r.log->note.empty()) notes += note(r.name + ": " + r.log->note + ".");
  const char* unit = "loss per trained token";
  std::string s = curves(runs, "Training loss", unit, &TrainLog::loss,
                         "Mean loss of the step's trained tokens."),
              eval = curves(runs, "Evaluation loss", unit, &TrainLog::eval,
                            "The same on the held-out data.");
  if (s.empty() && eval.empty()) return note("No log.jsonl with steps in any folder.") + notes;
  s += eval.empty() ? note("No log has evaluations (train --eval-data).") : eval;
  return s + notes + missing(runs, "steps in log.jsonl", [](const ReportRun& r) {
           return r.log && !(r.log->loss.empty() && r.log->eval.empty());
         });
}

// Only where a log has something: dense models have no experts.
std::string expert_load(const std::vector<ReportRun>& runs) {
  std::string s = curves(
      runs, "Unevenness of the experts' load", "standard deviation / mean", &TrainLog::load_cv,
      "Tokens sent to each expert in a step, mean of the layers; 0: every expert "
      "has as many.");
  s += curves(runs, "Balance loss", "balance loss", &TrainLog::aux,
              "Of runs with --aux-loss, before its weight.");
  return s.empty() ? "" : "<h2>Expert load</h2>\n" + s;
}

std::vector<double> sorted_share(std::vector<double> v) {
  double sum = std::accumulate(v.begin(), v.end(), 0.0);
  for (double& x : v) x = sum > 0 ? x / sum : 0;
  std::sort(v.rbegin(), v.rend());
  return v;
}

std::string concentration(const std::vector<ReportRun>& runs) {
  std::string s;
  using Which = std::pair<const char*, LayerScores Scores::*>;
  for (auto [what, member] : {Which{"token", &Scores::token}, Which{"gate", &Scores::gate}}) {
    LineChart ranked{fmt::format("Experts by {} score", what),
                     "expert, best first",
                     "share of the layer's score",
                     {},
                     true};
    int color = -1;
    for (const ReportRun& r : runs) {
      ++color;
      if (!r.scores) continue;
      std::vector<double> sum, squares;
      std::vector<int> n;
      for (const auto& [layer, v] : *r.scores.*member) {
        std::vector<double> share = sorted_share(v);
        size_t ranks = std::max(n.size(), share.size());
        sum.resize(ranks), squares.resize(ranks), n.resize(ranks);
        for (size_t i = 0; i < share.size(); ++i)
          sum[i] += share[i], squares[i] += share[i] * share[i], ++n[i];
      }
      ChartLine l{r.name, {}, {}, color, color >= 8, false};
      for (size_t i = 0; i < n.size(); ++i) {
        double mean = sum[i] / n[i],
               dev = std::sqrt(std::max(0.0, squares[i] / n[i] - mean * mean));
        l.points.push_back({static_cast<double>(i + 1), mean});
        l.band.push_back({std::max(0.0, mean - dev), mean + dev});
      }
      ranked.lines.push_back(std::move(l));
    }
    if (!ranked.lines.empty())
      s += figure(draw(ranked),
                  "Mean over the layers, shaded by one standard deviation over the layers (as Fig. "
                  "2 of the paper). Steep: few experts carry the task.");
  }
  int color = -1;
  for (const ReportRun& r : runs) {
    ++color;
    if (!r.scores) continue;
    LineChart c{r.name + ": cumulative token score",
                "experts, best first",
                "share of the layer's score",
                {},
                true};
    std::vector<double> mean;
    for (const auto& [layer, v] : r.scores->token) {
      std::vector<double> share = sorted_share(v);
      ChartLine l{"", {{0, 0}}, {}, color, false, true};
      double sum = 0;
      mean.resize(std::max(mean.size(), share.size()));
      for (size_t i = 0; i < share.size(); ++i)
        l.points.push_back({static_cast<double>(i + 1), sum += share[i]}), mean[i] += sum;
      c.lines.push_back(std::move(l));
    }
    double layers = static_cast<double>(c.lines.size());
    ChartLine all{"mean of the layers", {{0, 0}}, {}, color, false, false};
    for (size_t i = 0; i < mean.size(); ++i)
      all.points.push_back({static_cast<double>(i + 1), mean[i] / layers});
    c.lines.push_back(std::move(all));
    s += figure(draw(c),
                "One thin line per layer. Where it crosses p is how many experts the selection "
                "takes there.");
  }
  return s.empty() ? note("No scores.json in any folder.")
                   : s + missing(runs, "scores.json",
                                 [](const ReportRun& r) { return r.scores.has_value(); });
}

// Which experts each run's tokens take, layer by layer: Fig. 4 of the PESC paper.
std::string choices(const std::vector<ReportRun>& runs) {
  std::map<int, HeatMap> layers;
  for (const ReportRun& r : runs) {
    if (!r.scores) continue;
    for (const auto& [layer, share] : r.scores->token) {
      if (share.size() > kFewExperts) continue;
      HeatMap& m = layers[layer];
      m.title = fmt::format("Layer {}: which experts the tokens take, %", layer);
      m.x_label = "expert";
      for (size_t e = m.columns.size(); e < share.size(); ++e)
        m.columns.push_back(std::to_string(e));
      m.rows.push_back(r.name);
      auto& row = m.values.emplace_back();
      for (double x : share) row.push_back(100 * x);
    }
  }
  std::string s;
  for (auto& [layer, m] : layers) {
    for (auto& row : m.values) row.resize(m.columns.size(), kNoValue);
    s += figure(draw(m), "Token scores, which sum to 100 in a row; even would be " +
                             number(100.0 / static_cast<double>(m.columns.size())) + " each.");
  }
  return s.empty() ? "" : "<h2>Which experts</h2>\n" + s;
}

std::string trained(const std::vector<ReportRun>& runs) {
  std::set<int> layers;
  for (const ReportRun& r : runs)
    if (r.experts)
      for (const auto& [layer, ids] : r.experts->experts) layers.insert(layer);
  if (layers.empty()) return note("No expert_cfg.json in any folder.");
  HeatMap m{"Experts trained per layer", "layer", "", {}, {}, {}, 0};
  for (int l : layers) m.columns.push_back(std::to_string(l));
  std::vector<std::vector<Cell>> rows;
  for (const ReportRun& r : runs) {
    if (!r.experts) continue;
    m.rows.push_back(r.name);
    auto& v = m.values.emplace_back();
    size_t sum = 0, of = 0;
    for (int l : layers) {
      auto it = r.experts->experts.find(l);
      v.push_back(it == r.experts->experts.end() ? kNoValue
                                                 : static_cast<double>(it->second.size()));
      if (it != r.experts->experts.end()) sum += it->second.size();
    }
    if (r.scores)
      for (const auto& [layer, x] : r.scores->token) of += x.size();
    rows.push_back(
        {{r.name, true},
         {std::to_string(sum)},
         {fmt::format("{:.2f}", static_cast<double>(sum) / static_cast<double>(std::max<size_t>(
                                                               1, r.experts->experts.size())))},
         {of > 0
              ? fmt::format("{:.1f} %", 100.0 * static_cast<double>(sum) / static_cast<double>(of))
              : "\u2013"},
         {r.experts->shared_experts ? "trained" : "frozen"},
         {r.experts->non_expert_modules ? "trained" : "frozen"}});
  }
  return figure(draw(m), "How many routed experts of each layer train (as Fig. 4 of the paper).") +
         table({"run", "experts", "per layer", "of all", "shared experts", "other weights"}, rows) +
         missing(runs, "expert_cfg.json", [](const ReportRun& r) { return r.experts.has_value(); });
}

std::vector<int> top_experts(const std::vector<double>& v, size_t k) {
  std::vector<int> order(v.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return v[a] > v[b]; });
  order.resize(std::min(k, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

std::string overlap(const std::vector<ReportRun>& runs) {
  std::vector<const ReportRun*> with;
  for (const ReportRun& r : runs)
    if (r.scores) with.push_back(&r);
  if (with.size() < 2) return note("Needs the scores.json of two folders or more.");
  std::string s;
  bool incomparable = false;
  using Which = std::pair<const char*, LayerScores Scores::*>;
  for (auto [what, member] : {Which{"token", &Scores::token}, Which{"gate", &Scores::gate}}) {
    size_t top = 6;
    for (const ReportRun* r : with)
      for (const auto& [layer, v] : (*r->scores).*member) top = std::min(top, compared(v.size()));
    HeatMap m{fmt::format("Shared among the top {} experts, by {} score", top, what),
              "",
              "",
              {},
              {},
              {},
              2};
    for (const ReportRun* a : with) {
      m.rows.push_back(a->name), m.columns.push_back(a->name);
      auto& row = m.values.emplace_back();
      for (const ReportRun* b : with) {
        const LayerScores &la = *a->scores.*member, &lb = *b->scores.*member;
        bool same = la.size() == lb.size() &&
                    std::equal(la.begin(), la.end(), lb.begin(), [](auto& x, auto& y) {
                      return x.first == y.first && x.second.size() == y.second.size();
                    });
        double shared = 0;
        if (same)
          for (const auto& [layer, v] : la) {
            std::vector<int> x = top_experts(v, top), y = top_experts(lb.at(layer), top), both;
            std::set_intersection(x.begin(), x.end(), y.begin(), y.end(), std::back_inserter(both));
            shared += static_cast<double>(both.size());
          }
        incomparable |= !same;
        row.push_back(same ? shared / static_cast<double>(la.size()) : kNoValue);
      }
    }
    s += figure(draw(m),
                "Experts in the top of both, mean over the layers (as Fig. 3 of the paper). The "
                "diagonal compares a run with itself.");
  }
  if (incomparable)
    s += note(
        "\u2013: the two models differ in layers or experts, so their experts cannot be compared.");
  return s + missing(runs, "scores.json", [](const ReportRun& r) { return r.scores.has_value(); });
}

std::string settings(const std::vector<ReportRun>& runs) {
  std::string s;
  for (const ReportRun& r : runs)
    if (r.settings)
      s += "<h3>" + escape_xml(r.name) + "</h3>\n<pre>" + escape_xml(*r.settings) + "</pre>\n";
  return s.empty() ? note("No run.yaml in any folder.")
                   : s + missing(runs, "run.yaml",
                                 [](const ReportRun& r) { return r.settings.has_value(); });
}

// A section only where a folder has it: most runs time no kernels.
std::string kernels(const std::vector<ReportRun>& runs) {
  std::string s;
  for (const ReportRun& r : runs)
    if (r.roofline)
      s += figure(draw(*r.roofline),
                  r.name +
                      ": what the kernels reach of what this machine's memory and units allow. "
                      "A point on the line is at the roof.");
  return s.empty() ? s : "<h2>Kernels</h2>\n" + s;
}

constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<title>Sutor report</title>
<style>
:root { color-scheme: light dark;
  --bg: #fff; --fg: #1d2126; --dim: #5d6670; --line: #d7dce1; --panel: #f5f7f9; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #14171a; --fg: #e4e7ea; --dim: #9aa4ae; --line: #343b42; --panel: #1d2226; } }
body { margin: 0 auto; max-width: 920px; padding: 24px 20px 64px; background: var(--bg);
  color: var(--fg); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 22px 0 8px; overflow-wrap: anywhere; }
figure { margin: 18px 0 26px; }
svg { width: 100%; height: auto; display: block; }
figcaption, .note, .sub { color: var(--dim); font-size: 14px; overflow-wrap: anywhere; }
figcaption { margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
.left { text-align: left; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 12px;
  overflow-x: auto; font-size: 13px; line-height: 1.4; }
</style>
</head>
<body>
<h1>Sutor report</h1>
)";

}  // namespace

std::string make_report(const std::vector<std::string>& dirs) {
  check(!dirs.empty(), "report: no folders given");
  std::vector<ReportRun> runs;
  std::vector<std::string> names = report_names(dirs);
  std::string list;
  for (size_t i = 0; i < dirs.size(); ++i) {
    runs.push_back(read_report_run(dirs[i]));
    runs.back().name = names[i];
    list += (i ? ", " : "") + names[i];
  }
  std::string s = kHead + fmt::format("<p class=\"sub\">{} folder{}: {}</p>\n", dirs.size(),
                                      dirs.size() == 1 ? "" : "s", escape_xml(list));
  s += "<h2>Before and after</h2>\n" + before_after(runs);
  s += "<h2>Loss</h2>\n" + loss_curves(runs) + expert_load(runs);
  s += "<h2>Expert scores</h2>\n" + concentration(runs) + choices(runs);
  s += "<h2>Experts trained</h2>\n" + trained(runs);
  s += "<h2>Overlap between tasks</h2>\n" + overlap(runs);
  s += kernels(runs);
  s += "<h2>Settings</h2>\n" + settings(runs);
  return s + "</body>\n</html>\n";
}

}  // namespace sutor
