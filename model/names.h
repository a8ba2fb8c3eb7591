#pragma once
// What a parameter is, told by its name in the checkpoint; the only place that knows how families
// name their routed experts (mlp.experts.N, Mixtral: block_sparse_moe.experts.N, PESC:
// mlp.moe_adapter.experts.expert_N or .N), routers and shared experts.

#include <string_view>

namespace sutor {

enum class Part { kExpert, kSharedExpert, kRouter, kMlp, kAttention, kNorm, kEmbedding };

struct Role {
  Part part;
  int layer = -1;
  int expert = -1;       // of a routed expert
  bool adapter = false;  // of a PESC layer's router or experts
};

// kEmbedding: embeddings and head, and whatever no family names. kRouter: also the gate of a shared
// expert.
Role role_of(std::string_view name);

}  // namespace sutor
