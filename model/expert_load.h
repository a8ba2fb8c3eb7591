#pragma once
// How many tokens a router sent to each expert: what training logs, and how uneven it is.

#include <map>
#include <vector>

#include "model/model.h"

namespace sutor {

using ExpertLoad = std::map<int, std::vector<int64_t>>;  // layer -> tokens of each expert

// Standard deviation over mean: 0 where every expert has as many, sqrt(E / K - 1) where each token
// goes to the same K of E.
double load_cv(const std::vector<int64_t>& tokens);

// Adds up the routing that it sees until stop().
class LoadTap : public Trace {
 public:
  explicit LoadTap(ExpertLoad& load) : load_(load) {}
  void routing(int layer, const Routing& r) override;
  void stop() { counting_ = false; }

 private:
  ExpertLoad& load_;
  bool counting_ = true;
};

}  // namespace sutor
