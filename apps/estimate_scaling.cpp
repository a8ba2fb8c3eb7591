#include "apps/estimate_scaling.h"

#include <algorithm>
#include <cmath>

#include "apps/common.h"
#include "apps/table.h"
#include "model/names.h"
#include "model/placement.h"
#include "model/scaling.h"

namespace sutor {

void declare_scaling(Args& a) {
  a.integer("ranks", "processes that train together", 1, 1, 1 << 16);
  a.integer("ep", "of those, how many share the experts of a layer", 1, 1, 1 << 16);
  a.string("cluster", "YAML: measured times and links; predicts steps on 1 to 1024 ranks");
  a.string("expert-scores", "with --cluster: scores.json, how uneven shared experts will be");
}

namespace {

bool is_expert(const Param& p) {
  const Role role = role_of(p.name);
  return role.part == Part::kExpert && !role.adapter;
}

TrainedWork work_of(const Model& model, Compute compute, int64_t tokens, int64_t micro_batches) {
  const Config& c = model.config;
  TrainedWork w;
  w.micro_batches = micro_batches;
  w.tokens = tokens;
  w.hidden = c.hidden;
  w.top_k = std::max(1, c.route.top_k);
  w.moe_layers = static_cast<int64_t>(c.moe_layers().size());
  int first = static_cast<int>(c.layers);
  for (const Param& p : model.params.all()) {
    if (!p.trainable) continue;
    (is_expert(p) ? w.experts : w.everywhere) += p.value.numel();
    if (trained_type(p.value, compute) == DType::F32) w.value_bytes = 4;
    const Role role = role_of(p.name);
    first = std::min(first, p.name.find("embed_tokens") != p.name.npos ? 0
                            : role.layer >= 0                          ? role.layer
                                                                       : first);
  }
  for (int layer : c.moe_layers()) w.layers_back += layer >= first;
  return w;
}

}  // namespace

void for_ranks(Estimate& e, const Model& model, int ranks, int ep) {
  if (ranks == 1) return;
  int64_t trained = 0, all = 0, frozen_bytes = 0;
  for (const Param& p : model.params.all()) {
    if (p.trainable) all += p.value.numel();
    if (!is_expert(p)) continue;
    if (p.trainable)
      trained += p.value.numel();
    else
      frozen_bytes += p.value.nbytes();
  }
  const double keep =
      all == 0 ? 1 : 1 - static_cast<double>(trained) / static_cast<double>(all) * (1 - 1.0 / ep);
  e.mapped -= frozen_bytes * (ep - 1) / ep;
  e.values = static_cast<int64_t>(static_cast<double>(e.values) * keep);
  e.masters /= ranks;
  e.moments /= ranks;
  // Of shared experts ep gradients of E / ep experts; the sum; what comes from the other ranks.
  constexpr int64_t kReceived = int64_t{4} << 20;
  // Of a layer's tokens an owner keeps a row for each that it got: together as many rows as tokens
  // have owners, where one rank keeps one for each token.
  const double owners =
      ep * (1 - std::pow(1 - 1.0 / ep, static_cast<double>(std::max(1, model.config.route.top_k))));
  if (ep > 1)
    e.activations += static_cast<int64_t>(
        (owners - 1) * static_cast<double>(e.tokens * model.config.hidden * 4 *
                                           static_cast<int64_t>(model.config.moe_layers().size())));
  e.grads = all * 4 + all * 4 / ranks + std::min(int64_t{ranks} * kReceived, all * 4);
}

void print_scaling(const Args& a, const Model& model, int64_t tokens, int64_t micro_batches) {
  const Cluster cluster = read_cluster(a.str("cluster"));
  std::optional<LayerScores> scores;
  if (a.given("expert-scores")) scores = read_scores(a.str("expert-scores")).token;
  const Compute compute = a.str("dtype") == "f32" ? Compute::kF32 : Compute::kBF16;
  TrainedWork work = work_of(model, compute, tokens, micro_batches);
  const bool shares = !model.config.moe_layers().empty() && model.config.adapter_dim == 0;
  const Prediction one = predict(cluster, work, 1, 1);
  Table t({"ranks", "ep", "step, s", "of one rank", "per rank, %", "compute", "experts' rows",
           "gradients", "values", "MB sent"});
  Json rows = Json::array();
  bool any_crowded = false;
  for (int ranks = 1; ranks <= 1024; ranks *= 2)
    for (int ep = 1; ep <= ranks; ep *= 2) {
      if (ep > 1 && (!shares || ep > model.config.experts)) continue;
      if (ep > 1) {
        const Placement p = place_experts(model, ep, scores);
        work.most_work = *std::max_element(p.work.begin(), p.work.end()) * ep;
      }
      const Prediction p = predict(cluster, work, ranks, ep);
      rows.push_back({{"ranks", ranks},
                      {"ep", ep},
                      {"step_s", p.step},
                      {"speedup", one.step / p.step},
                      {"compute_s", p.compute},
                      {"experts_s", p.experts},
                      {"gradients_s", p.gradients},
                      {"values_s", p.values},
                      {"bytes", p.bytes}});
      auto s = [](double v) { return fmt::format("{:.4g}", v); };
      const bool crowded =
          int64_t{ranks} * cluster.threads > int64_t{cluster.hosts} * cluster.cores;
      any_crowded |= crowded;
      t.row({fmt::format("{}{}", ranks, crowded ? "*" : ""), std::to_string(ep), s(p.step),
             fmt::format("{:.2f}x", one.step / p.step),
             fmt::format("{:.0f}", 100 * one.step / p.step / ranks), s(p.compute), s(p.experts),
             s(p.gradients), s(p.values), fmt::format("{:.1f}", p.bytes * 1e-6)});
    }
  if (a.on("json")) return print_json({{"predicted", rows}});
  fmt::print("predicted\n{}", t.text());
  if (any_crowded)
    fmt::print("* more threads than the {} hosts have cores: ranks take turns\n", cluster.hosts);
}

}  // namespace sutor
