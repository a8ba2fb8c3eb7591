#pragma once
// Which rank holds which expert, where ranks share them: made once, before training, from the share
// of tokens that each expert is expected to get (its token score, if known) and from what trains.

#include <optional>

#include "engine/comm.h"
#include "io/json.h"
#include "model/esft.h"
#include "model/model.h"

namespace sutor {

struct Placement {
  std::vector<std::vector<int>> owner;  // [layer][E]; empty: a dense layer
  // By rank: expected share of the routed work, experts, experts that train.
  std::vector<double> work;
  std::vector<int64_t> experts, trained;
};

// Layer by layer the most expensive expert first, to the rank with least work in that layer (then
// fewest trained experts so far), none getting more than E / ranks rounded up. An expert costs its
// tokens: forward and dx, and a third product where it trains.
// Throws when the scores are those of another model.
Placement place_experts(const Model& model, int ranks, const std::optional<LayerScores>& tokens);
Json to_json(const Placement& p);
std::string summary(const Placement& p);  // a line for people

// The values of experts that other ranks trained, to rank 0 of the world.
void gather_trained(Model& model, const Comm& world, Compute compute);

}  // namespace sutor
