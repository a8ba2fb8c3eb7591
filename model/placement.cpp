#include "model/placement.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "model/names.h"

namespace sutor {
namespace {

// Experts of which a weight trains, by layer.
std::map<int, std::vector<bool>> trained_experts(const Model& model) {
  std::map<int, std::vector<bool>> out;
  for (const Param& p : model.params.all()) {
    const Role role = role_of(p.name);
    if (role.part != Part::kExpert) continue;
    std::vector<bool>& layer = out[role.layer];
    if (static_cast<int>(layer.size()) <= role.expert) layer.resize(role.expert + 1);
    if (p.trainable) layer[role.expert] = true;
  }
  return out;
}

}  // namespace

Placement place_experts(const Model& model, int ranks, const std::optional<LayerScores>& tokens) {
  const Config& c = model.config;
  const std::vector<int> layers = c.moe_layers();
  check(!layers.empty() && c.adapter_dim == 0, "a {} model has no experts for {} ranks to share",
        c.model_type, ranks);
  check(ranks <= c.experts, "{} ranks cannot share the {} experts of a layer", ranks, c.experts);
  for (const Param& q : model.params.all())
    check(!q.lora || role_of(q.name).part != Part::kExpert || role_of(q.name).adapter,
          "{} carries a LoRA: such experts are not shared among ranks", q.name);
  const auto trained = trained_experts(model);
  Placement p;
  p.owner.resize(c.layers);
  p.work.assign(ranks, 0);
  p.experts.assign(ranks, 0);
  p.trained.assign(ranks, 0);
  const int64_t E = c.experts, most = (E + ranks - 1) / ranks;
  for (int layer : layers) {
    std::vector<double> cost(E, 2.0 / static_cast<double>(E));
    if (tokens) {
      const auto share = tokens->find(layer);
      check(share != tokens->end() && static_cast<int64_t>(share->second.size()) == E,
            "expert scores of another model: layer {} has {} of {} experts", layer,
            share == tokens->end() ? 0 : share->second.size(), E);
      for (int64_t e = 0; e < E; ++e) cost[e] = 2 * share->second[e];
    }
    const auto trains = trained.find(layer);
    auto is_trained = [&](int64_t e) {
      return trains != trained.end() && e < static_cast<int64_t>(trains->second.size()) &&
             trains->second[e];
    };
    for (int64_t e = 0; e < E; ++e)
      if (is_trained(e)) cost[e] *= 1.5;
    std::vector<int> order(E);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return cost[a] > cost[b]; });
    std::vector<double> work(ranks);
    std::vector<int64_t> count(ranks);
    p.owner[layer].assign(E, -1);
    for (int e : order) {
      int best = -1;
      for (int r = 0; r < ranks; ++r) {
        if (count[r] == most) continue;
        if (best < 0 || work[r] < work[best] - 1e-12 ||
            (work[r] < work[best] + 1e-12 &&
             std::pair(p.trained[r], p.experts[r]) < std::pair(p.trained[best], p.experts[best])))
          best = r;
      }
      p.owner[layer][e] = best;
      work[best] += cost[e];
      ++count[best];
      ++p.experts[best];
      p.trained[best] += is_trained(e);
    }
    for (int r = 0; r < ranks; ++r) p.work[r] += work[r];
  }
  const double total = std::accumulate(p.work.begin(), p.work.end(), 0.0);
  for (double& w : p.work) w /= total > 0 ? total : 1;
  return p;
}

Json to_json(const Placement& p) {
  Json layers = Json::object();
  for (size_t i = 0; i < p.owner.size(); ++i)
    if (!p.owner[i].empty()) layers[std::to_string(i)] = p.owner[i];
  return {{"ranks", p.work.size()},
          {"owner", layers},
          {"work", p.work},
          {"experts", p.experts},
          {"trained_experts", p.trained}};
}

std::string summary(const Placement& p) {
  std::string s;
  for (size_t r = 0; r < p.work.size(); ++r)
    s += fmt::format("{}rank {}: {} experts, {} trained, {:.0f} % of the work", r == 0 ? "" : "; ",
                     r, p.experts[r], p.trained[r], 100 * p.work[r]);
  return s;
}

void gather_trained(Model& model, const Comm& world, Compute compute) {
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (Param* p : model.params.trainable()) {
    if (p->owner <= 0) continue;  // everywhere, or the lead's; the first replica has all
    if (world.rank() == p->owner) out.push_back({0, p->value.data, p->value.nbytes()});
    if (world.rank() != 0) continue;
    p->value = empty(p->value.shape, trained_type(p->value, compute));
    in.push_back({p->owner, p->value.data, p->value.nbytes()});
  }
  world.exchange(out, in, "trained experts");
}

}  // namespace sutor
