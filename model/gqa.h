#pragma once
// Grouped-query attention (arXiv 2305.13245): N query heads share G key/value heads of D columns;
// RoPE over whole heads, pairs (i, i + D/2). Options cover LLaMA, Mistral, Qwen2, Qwen3, Mixtral
// and OLMoE. The cache keeps rotated keys [S*G,D] and values.

#include "model/blocks.h"

namespace sutor {

enum class QkNorm { kNone, kHead, kFull };  // RMSNorm of each head, or of all heads together

struct Gqa {
  struct Options {
    int64_t heads, kv_heads, head_dim;
    bool qkv_bias = false, o_bias = false;
    QkNorm norm = QkNorm::kNone;
    float clip = 0;  // limit of |q|, |k| and |v| before RoPE; 0: none
  };
  Options opt;
  float eps, scale;
  Param *q, *k, *v, *o;
  Param *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr;
  Param *q_norm = nullptr, *k_norm = nullptr;

  Gqa(const Config& config, Scope s, const Options& options);
  Var operator()(const Var& x, const Places& p) const;
  LayerCache make_cache(int64_t capacity) const;
  // x: new tokens, which follow the first `length` of the cache.
  Var extend(const Var& x, const Places& p, LayerCache& cache, int64_t length) const;
  // Row i of x: a new token of sequences[i].
  Var extend_each(const Var& x, const RopeAngles& angles,
                  const std::vector<Cached>& sequences) const;

 private:
  struct Qkv {
    Var q, k, v;  // [T*N,D], [T*G,D], [T*G,D]
  };
  Qkv project(const Var& x, const RopeAngles& angles) const;
  Var attend(const Var& q, const Var& k, const Var& v, const Tensor& start) const;
};

// num_key_value_heads (kv_heads if the file does not say; 0, or null in the file: as many as heads)
// and head_dim (0: hidden / heads). Switches are the family's.
Gqa::Options read_gqa(const Reader& r, const Config& c, int64_t kv_heads = 0, int64_t head_dim = 0);
// sliding_window by layer: by layer_types if the file has them, else where `slides`; empty: none.
// A null window is none, a missing one the family's default (0: none).
std::vector<int64_t> read_windows(const Reader& r, const Config& c, int64_t fallback,
                                  const std::function<bool(int64_t layer)>& slides);
// The same window in every layer: where layer_types says otherwise, an error (transformers passes
// it over there).
std::vector<int64_t> read_one_window(const Reader& r, const Config& c, int64_t fallback);
// Qwen2's and Qwen3's: if use_sliding_window, from layer max_window_layers on.
std::vector<int64_t> read_last_windows(const Reader& r, const Config& c);
}  // namespace sutor
