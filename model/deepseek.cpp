#include "model/deepseek.h"

namespace sutor {

void read_deepseek_experts(const Reader& r, Config& c, const DeepSeekDefaults& defaults) {
  const char* width = "moe_intermediate_size";
  read_experts(r, c, defaults.width > 0 ? r.positive(width, defaults.width) : r.positive(width));
  c.shared_experts = r.not_negative("n_shared_experts", defaults.shared);
  c.shared_width = c.shared_experts * c.expert_width;
  int64_t first = r.not_negative("first_k_dense_replace", defaults.dense),
          every = r.positive("moe_layer_freq", 1);
  for (int64_t i = 0; i < c.layers; ++i) c.sparse.push_back(i >= first && i % every == 0);
}

}  // namespace sutor
