#pragma once
// config.json of a hub folder, checked: a missing key has its family's published default or is an
// error, an unknown value always is an error. Both transformers' v4 keys and v5's (rope_parameters,
// dtype) are read.

#include <optional>
#include <string>
#include <vector>

#include "engine/moe.h"
#include "io/json.h"

namespace sutor {

struct RopeConfig {
  double theta = 10000;
  bool yarn = false;  // arXiv 2309.00071, with DeepSeek's mscale and mscale_all_dim
  double factor = 1, beta_fast = 32, beta_slow = 1, mscale = 1, mscale_all_dim = 0;
  int64_t original_max_positions = 4096;
};

struct Config {
  Json json;          // as read; written back unchanged by exports
  std::string where;  // path, for messages
  std::string model_type;
  int64_t hidden, layers, vocab, heads, intermediate, max_positions;
  double norm_eps;
  bool tie_embeddings;
  RopeConfig rope;
  std::optional<int64_t> q_lora_rank;
  int64_t kv_lora_rank, qk_nope_dim, qk_rope_dim, v_head_dim;
  int64_t experts, shared_experts, expert_width, first_dense, moe_freq;
  RouteOptions route;
  double aux_alpha;
  bool seq_aux;
  double init_std;
  std::vector<int32_t> eos;  // union of config.json and generation_config.json

  bool is_moe(int64_t layer) const {
    return layer >= first_dense && layer % moe_freq == 0 && experts > 0;
  }
  std::vector<int> moe_layers() const;
};

Config read_config(const std::string& folder_or_file);

}  // namespace sutor
