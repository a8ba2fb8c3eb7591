#pragma once
// The ranks that share a layer's experts.

#include <vector>

#include "engine/comm.h"
#include "engine/param.h"

namespace sutor {

struct ExpertRanks {
  Comm comm;
  std::vector<int> owner;      // [E] the rank of comm that holds expert e
  bool same_tokens = false;    // every rank has the same tokens (inference): only results travel
  const Slab* slab = nullptr;  // where the gradients of experts lie, one for each rank's tokens
};

}  // namespace sutor
