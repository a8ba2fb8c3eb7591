#pragma once
// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1): keys and values of all
// heads come from one latent[T,L] per token and a rotary part pe[T,R] that the heads share; these
// two are what a cache keeps. Queries may have a latent of their own (q_lora_rank). RoPE is
// interleaved in the checkpoint.

#include "model/blocks.h"

namespace sutor {

struct Mla {
  struct Options {
    int64_t heads, q_rank, kv_rank;  // q_rank 0: queries straight from x
    int64_t nope, rope, v;           // columns of a head: without and with RoPE, of its value
    float scale;                     // of the logits
  };
  Options opt;
  Param *q = nullptr, *q_a = nullptr, *q_a_norm = nullptr, *q_b = nullptr;
  Param *kv_a, *kv_a_norm, *kv_b, *o;

  Mla(const Config& config, Scope s, const Options& options);
  Var operator()(const Var& x, const Places& p) const;
  LayerCache make_cache(int64_t capacity) const;
  // x: new tokens, which follow the first `length` of the cache.
  Var extend(const Var& x, const Places& p, LayerCache& cache, int64_t length) const;
  // Row i of x: a new token of sequences[i].
  Var extend_each(const Var& x, const RopeAngles& angles,
                  const std::vector<Cached>& sequences) const;

 private:
  Var query(const Var& x, const RopeAngles& angles) const;
  std::pair<Var, Var> latent(const Var& x, const RopeAngles& angles) const;
  Var expanded(const Var& q, const Var& latent, const Var& pe, const Tensor& start) const;
};

// The keys of MLA, YaRN's mscale_all_dim among them; into c.rope: the factor on cos and sin as the
// authors' code has it, unless the file gives one (attention_factor, which is transformers').
Mla::Options read_mla(const Reader& r, Config& c);

}  // namespace sutor
