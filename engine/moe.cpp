#include "engine/moe.h"

namespace sutor {

MoeIndex sort_by_expert(const Tensor& expert, int num_experts) {
  int64_t pairs = expert.numel();
  const int32_t* e = expert.i32();
  MoeIndex ix;
  ix.top_k = static_cast<int>(expert.cols());
  ix.offset.assign(num_experts + 1, 0);
  ix.pair.resize(pairs);
  ix.where.resize(pairs);
  for (int64_t p = 0; p < pairs; ++p) {
    check(e[p] >= 0 && e[p] < num_experts, "expert {} of {}", e[p], num_experts);
    ++ix.offset[e[p] + 1];
  }
  for (int i = 0; i < num_experts; ++i) ix.offset[i + 1] += ix.offset[i];
  std::vector<int32_t> next(ix.offset.begin(), ix.offset.end() - 1);
  for (int64_t p = 0; p < pairs; ++p) {
    ix.where[p] = next[e[p]];
    ix.pair[next[e[p]]++] = static_cast<int32_t>(p);
  }
  return ix;
}

}  // namespace sutor
