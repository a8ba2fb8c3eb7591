// The latent norms use eps 1e-6 whatever rms_norm_eps says, as the authors' code does
// (modeling_deepseek.py).
#include "model/mla.h"

namespace sutor {
namespace {

constexpr float kLatentEps = 1e-6f;
// Up to so many new tokens attend in the latent space, more expand keys and values.
constexpr int64_t kAbsorb = 8;

}  // namespace

Mla::Options read_mla(const Reader& r, Config& c) {
  Mla::Options o{};
  r.fixed("attention_bias", false);
  o.heads = c.heads;
  o.q_rank = r.has("q_lora_rank") ? r.positive("q_lora_rank") : 0;
  o.kv_rank = r.positive("kv_lora_rank");
  o.nope = r.positive("qk_nope_head_dim");
  o.rope = r.positive("qk_rope_head_dim");
  check(o.rope % 2 == 0, "{}: qk_rope_head_dim is {}, must be even", r.where, o.rope);
  o.v = r.positive("v_head_dim");
  double m = 1;
  if (c.rope.type == RopeType::kYarn) {
    if (c.rope.mscale_all_dim != 0) m = yarn_mscale(c.rope.factor, c.rope.mscale_all_dim);
    if (!c.rope.cos_scale_given)
      c.rope.cos_scale = yarn_mscale(c.rope.factor, c.rope.mscale) /
                         yarn_mscale(c.rope.factor, c.rope.mscale_all_dim);
  }
  o.scale = static_cast<float>(m * m / std::sqrt(static_cast<double>(o.nope + o.rope)));
  return o;
}

Mla::Mla(const Config& c, Scope s, const Options& options) : opt(options) {
  int64_t H = c.hidden, N = opt.heads, D = opt.nope + opt.rope;
  if (opt.q_rank > 0) {
    q_a = &s.param("q_a_proj.weight", {opt.q_rank, H});
    q_a_norm = &s.param("q_a_layernorm.weight", {opt.q_rank});
    q_b = &s.param("q_b_proj.weight", {N * D, opt.q_rank});
  } else {
    q = &s.param("q_proj.weight", {N * D, H});
  }
  kv_a = &s.param("kv_a_proj_with_mqa.weight", {opt.kv_rank + opt.rope, H});
  kv_a_norm = &s.param("kv_a_layernorm.weight", {opt.kv_rank});
  kv_b = &s.param("kv_b_proj.weight", {N * (opt.nope + opt.v), opt.kv_rank});
  o = &s.param("o_proj.weight", {H, N * opt.v});
}

Var Mla::query(const Var& x, const RopeAngles& angles) const {
  Var y = q ? linear(x, *q) : linear(rms_norm(linear(x, *q_a), *q_a_norm, kLatentEps), *q_b);
  return rope_tail(reshape(y, {y.value.rows() * opt.heads, opt.nope + opt.rope}), opt.rope, angles,
                   true);
}

// [T,L] normalised, [T,R] rotated.
std::pair<Var, Var> Mla::latent(const Var& x, const RopeAngles& angles) const {
  Var kv = linear(x, *kv_a);
  int64_t L = opt.kv_rank;
  return {rms_norm(columns(kv, 0, L), *kv_a_norm, kLatentEps),
          rope_tail(columns(kv, L, L + opt.rope), opt.rope, angles, true)};
}

// Attention over keys and values of latent/pe for all tokens, expanded per head: [T,N*Dv].
Var Mla::expanded(const Var& q, const Var& latent, const Var& pe, const Tensor& start) const {
  int64_t P = opt.nope, Dv = opt.v, N = opt.heads, S = latent.value.rows();
  int heads = static_cast<int>(N);
  Var kv = reshape(linear(latent, *kv_b), {S * N, P + Dv});
  Var k = mla_key(columns(kv, 0, P), pe, heads);
  Var a = attention(q, k, columns(kv, P, P + Dv), start, heads, heads, opt.scale);
  return reshape(a, {q.value.rows() / N, N * Dv});
}

Var Mla::operator()(const Var& x, const Places& p) const {
  Var q = query(x, p.angles);
  auto [latents, pe] = latent(x, p.angles);
  return linear(expanded(q, latents, pe, p.start), *o);
}

LayerCache Mla::make_cache(int64_t capacity) const {
  return {empty({capacity, opt.kv_rank}), empty({capacity, opt.rope})};
}

Var Mla::extend(const Var& x, const Places& p, LayerCache& cache, int64_t length) const {
  int64_t n = x.value.rows(), S = length + n;
  Ctx& ctx = x.tape->ctx;
  Var q = query(x, p.angles);
  auto [latents, pe] = latent(x, p.angles);
  copy_into(cache.k.slice(length, S), latents.value);
  copy_into(cache.v.slice(length, S), pe.value);
  Tensor all = cache.k.slice(0, S), all_pe = cache.v.slice(0, S);
  if (n > kAbsorb || kv_b->lora)
    return linear(expanded(q, x.tape->constant(all), x.tape->constant(all_pe), p.start), *o);
  Tensor y = empty({n * opt.heads, opt.v});
  ctx.k->mla_decode_fwd(ctx, y, q.value, all, all_pe, kv_b->value, static_cast<int>(opt.heads),
                        opt.scale);
  return linear(x.tape->constant(y.view({n, opt.heads * opt.v})), *o);
}

Var Mla::extend_each(const Var& x, const RopeAngles& angles,
                     const std::vector<Cached>& sequences) const {
  const int64_t n = x.value.rows(), N = opt.heads;
  Ctx& ctx = x.tape->ctx;
  Var q = query(x, angles);
  auto [latents, pe] = latent(x, angles);
  Tensor y = empty({n, N * opt.v});
  for (int64_t i = 0; i < n; ++i) {
    const Cached& c = sequences[i];
    const int64_t S = c.length + 1;
    copy_into(c.cache->k.slice(c.length, S), latents.value.slice(i, i + 1));
    copy_into(c.cache->v.slice(c.length, S), pe.value.slice(i, i + 1));
    Tensor all = c.cache->k.slice(0, S), all_pe = c.cache->v.slice(0, S),
           mine = q.value.slice(i * N, (i + 1) * N);
    if (kv_b->lora)
      copy_into(y.slice(i, i + 1), expanded(x.tape->constant(mine), x.tape->constant(all),
                                            x.tape->constant(all_pe), c.start)
                                       .value);
    else
      ctx.k->mla_decode_fwd(ctx, y.slice(i, i + 1).view({N, opt.v}), mine, all, all_pe, kv_b->value,
                            static_cast<int>(N), opt.scale);
  }
  return linear(x.tape->constant(y), *o);
}

}  // namespace sutor
