#pragma once
// What the MoE kernels and ops share: routing options, tokens sorted by expert, a layer's experts
// as a table of views.

#include <vector>

#include "engine/tensor.h"

namespace sutor {

enum class RouteScore { kSoftmax, kSigmoid };
enum class GroupScore {
  kMax,
  kTop2Sum
};  // how a group of experts is rated: DeepSeek-V2 max, V3 sum of the two best

struct RouteOptions {
  int top_k = 1;
  RouteScore score = RouteScore::kSoftmax;
  bool normalize = false;  // weights of the chosen k divided by (their sum + 1e-20)
  float scale = 1.0f;  // routed_scaling_factor, applied after normalisation when both are wanted by
                       // the family
  int n_group =
      1;  // experts come in n_group equal groups, of which the topk_group best-rated are eligible
  int topk_group = 1;
  GroupScore group_score = GroupScore::kMax;
};

// The T*K (token, k) pairs, stably sorted by expert (so by token within one).
struct MoeIndex {
  std::vector<int32_t> offset;  // [E+1] pairs offset[e]..offset[e+1] belong to expert e
  std::vector<int32_t> pair;    // [T*K] sorted position -> t*K + k
  std::vector<int32_t> where;   // [T*K] t*K + k -> sorted position
  int top_k = 1;
};
MoeIndex sort_by_expert(const Tensor& expert, int num_experts);  // expert I32 [T,K]

// One layer's experts. Frozen ones point into the mapped file. As a gradient table: empty tensor =
// frozen, skipped.
struct ExpertWeights {
  std::vector<Tensor> gate, up;  // [E] of [I,H]
  std::vector<Tensor> down;      // [E] of [H,I]
};

// The adapters of one PESC layer (arXiv 2401.02731): expert e adds Up_e gelu(Down_e x).
struct AdapterWeights {
  std::vector<Tensor> down;  // [E] of [A,H]
  std::vector<Tensor> up;    // [E] of [H,A]
};

// Which elements are dropped: element i stays, times 1 / (1 - p), unless its draw
// (engine/ref/dropout.h) from (seed, i) is below p. The same mask whenever it is asked for.
struct Dropout {
  float p = 0;  // 0: none
  uint64_t seed = 0;
};

}  // namespace sutor
