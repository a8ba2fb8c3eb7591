// DeepSeek-V2 and V2-Lite (arXiv 2405.04434; modeling_deepseek.py): multi-head latent attention
// with or without q_lora, YaRN, interleaved RoPE, softmax routing (greedy or group-limited), routed
// scaling, shared experts, sequence-wise balance loss.
//
// Two things follow the authors' code where transformers differs: the latent norms use eps 1e-6
// whatever rms_norm_eps says, and with norm_topk_prob the routed scaling factor is not applied
// (model/config.cpp).
#include <cmath>
#include <numbers>

#include "model/family.h"

namespace sutor {
namespace {

constexpr float kLatentEps = 1e-6f;

struct Mlp {
  Param *gate, *up, *down;
  Mlp(Scope s, int64_t hidden, int64_t width)
      : gate(&s.param("gate_proj.weight", {width, hidden})),
        up(&s.param("up_proj.weight", {width, hidden})),
        down(&s.param("down_proj.weight", {hidden, width})) {}
  Var operator()(const Var& x) const {
    return linear(swiglu(linear(x, *gate), linear(x, *up)), *down);
  }
};

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// Inverse frequencies [R/2] (YaRN interpolates the slow ones: arXiv 2309.00071 eq. 23 and HF's
// linear ramp).
std::vector<double> inverse_frequencies(const RopeConfig& r, int64_t dim) {
  std::vector<double> f(dim / 2);
  auto correction = [&](double rotations) {
    return dim * std::log(r.original_max_positions / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(r.theta));
  };
  double low = std::max(std::floor(correction(r.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(r.beta_slow)), static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < dim / 2; ++i) {
    double plain = std::pow(r.theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    f[i] = plain;
    if (r.yarn) {
      double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      f[i] = plain / r.factor * ramp + plain * (1 - ramp);
    }
  }
  return f;
}

struct Attention {
  const Config& c;
  Param *q = nullptr, *q_a = nullptr, *q_a_norm = nullptr, *q_b = nullptr;
  Param *kv_a, *kv_a_norm, *kv_b, *o;
  float scale;

  Attention(const Config& config, Scope s) : c(config) {
    int64_t H = c.hidden, N = c.heads, D = c.qk_nope_dim + c.qk_rope_dim;
    if (c.q_lora_rank) {
      q_a = &s.param("q_a_proj.weight", {*c.q_lora_rank, H});
      q_a_norm = &s.param("q_a_layernorm.weight", {*c.q_lora_rank});
      q_b = &s.param("q_b_proj.weight", {N * D, *c.q_lora_rank});
    } else {
      q = &s.param("q_proj.weight", {N * D, H});
    }
    kv_a = &s.param("kv_a_proj_with_mqa.weight", {c.kv_lora_rank + c.qk_rope_dim, H});
    kv_a_norm = &s.param("kv_a_layernorm.weight", {c.kv_lora_rank});
    kv_b = &s.param("kv_b_proj.weight", {N * (c.qk_nope_dim + c.v_head_dim), c.kv_lora_rank});
    o = &s.param("o_proj.weight", {H, N * c.v_head_dim});
    double m = c.rope.yarn && c.rope.mscale_all_dim != 0
                   ? yarn_mscale(c.rope.factor, c.rope.mscale_all_dim)
                   : 1.0;
    scale = static_cast<float>(m * m / std::sqrt(static_cast<double>(D)));
  }

  Var query(const Var& x, const RopeAngles& angles) const {
    Var y = q ? linear(x, *q) : linear(rms_norm(linear(x, *q_a), *q_a_norm, kLatentEps), *q_b);
    return rope_tail(reshape(y, {y.value.rows() * c.heads, c.qk_nope_dim + c.qk_rope_dim}),
                     c.qk_rope_dim, angles, true);
  }

  std::pair<Var, Var> latent(const Var& x,
                             const RopeAngles& angles) const {  // [T,L] normalised, [T,R] rotated
    Var kv = linear(x, *kv_a);
    int64_t L = c.kv_lora_rank;
    return {rms_norm(columns(kv, 0, L), *kv_a_norm, kLatentEps),
            rope_tail(columns(kv, L, L + c.qk_rope_dim), c.qk_rope_dim, angles, true)};
  }

  // Keys and values of latent/pe for all tokens, expanded per head.
  Var expanded(const Var& q, const Var& latent, const Var& pe, const Tensor& start) const {
    int64_t P = c.qk_nope_dim, Dv = c.v_head_dim, N = c.heads, S = latent.value.rows();
    Var kv = reshape(linear(latent, *kv_b), {S * N, P + Dv});
    Var k = mla_key(columns(kv, 0, P), pe, static_cast<int>(N));
    Var v = columns(kv, P, P + Dv);
    Var a = attention(q, k, v, start, static_cast<int>(N), static_cast<int>(N), scale);
    return linear(reshape(a, {q.value.rows() / N, N * Dv}), *o);
  }

  Var operator()(const Var& x, const Tensor& start, const RopeAngles& angles) const {
    Var q = query(x, angles);
    auto [latents, pe] = latent(x, angles);
    return expanded(q, latents, pe, start);
  }
};

struct MoeBlock {
  const Config& c;
  int layer;
  Param* router;
  ExpertBank bank;
  std::optional<Mlp> shared;

  MoeBlock(const Config& config, Scope s, int layer) : c(config), layer(layer) {
    router = &s.param("gate.weight", {c.experts, c.hidden});
    for (int e = 0; e < c.experts; ++e) {
      Mlp m(s / "experts" / e, c.hidden, c.expert_width);
      bank.gate.push_back(m.gate);
      bank.up.push_back(m.up);
      bank.down.push_back(m.down);
    }
    if (c.shared_experts > 0)
      shared.emplace(s / "shared_experts", c.hidden, c.expert_width * c.shared_experts);
  }

  Var operator()(const Var& x, const std::vector<int32_t>& rows, Trace& trace,
                 std::vector<Var>* aux) const {
    Routing r = moe_route(linear_exact(x, *router), {}, c.route);
    trace.routing(layer, r);
    if (aux) aux->push_back(moe_balance_loss(r, rows));
    Var y = moe_ffn(x, r, bank);
    return shared ? add(y, (*shared)(x)) : y;
  }
};

struct Block {
  Param *norm1, *norm2;
  Attention attn;
  std::optional<Mlp> mlp;
  std::optional<MoeBlock> moe;

  Block(const Config& c, Scope s, int layer)
      : norm1(&s.param("input_layernorm.weight", {c.hidden})),
        norm2(&s.param("post_attention_layernorm.weight", {c.hidden})),
        attn(c, s / "self_attn") {
    if (c.is_moe(layer))
      moe.emplace(c, s / "mlp", layer);
    else
      mlp.emplace(s / "mlp", c.hidden, c.intermediate);
  }

  Var feed_forward(const Var& x, float eps, const std::vector<int32_t>& rows, Trace& trace,
                   std::vector<Var>* aux) const {
    Var h = rms_norm(x, *norm2, eps);
    return add(x, moe ? (*moe)(h, rows, trace, aux) : (*mlp)(h));
  }
};

class DeepseekV2 : public Model {
 public:
  DeepseekV2(const Config& c, std::function<Tensor(const std::string&, const Shape&)> source) {
    config = c;
    params.source = std::move(source);
    Scope root{params, ""}, s = root / "model";
    embed_ = &s.param("embed_tokens.weight", {c.vocab, c.hidden});
    for (int i = 0; i < c.layers; ++i) blocks_.emplace_back(config, s / "layers" / i, i);
    norm_ = &s.param("norm.weight", {c.hidden});
    head_ = config.tie_embeddings ? embed_ : &root.param("lm_head.weight", {c.vocab, c.hidden});
    inv_freq_ = inverse_frequencies(c.rope, c.qk_rope_dim);
    cos_scale_ = c.rope.yarn ? yarn_mscale(c.rope.factor, c.rope.mscale) /
                                   yarn_mscale(c.rope.factor, c.rope.mscale_all_dim)
                             : 1.0;
  }

  const Param& head() const override { return *head_; }

  Var hidden(Tape& tape, const Batch& batch, Trace& trace, std::vector<Var>* aux) override {
    RopeAngles a = angles(batch.positions);
    float eps = static_cast<float>(config.norm_eps);
    Var x = embed(tape, batch.ids, *embed_);
    trace.activation("model.embed_tokens", x.value);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const Block& b = blocks_[i];
      auto run = [&b, &trace, balance = aux != nullptr, eps, a, start = batch.start,
                  rows = batch.rows](const Var& in) {
        Var h = add(in, b.attn(rms_norm(in, *b.norm1, eps), start, a));
        std::vector<Var> outs(1);  // hidden states, then the balance loss if asked for
        Var y = b.feed_forward(h, eps, rows, trace, balance ? &outs : nullptr);
        outs[0] = y;
        return outs;
      };
      std::vector<Var> outs = recompute ? checkpoint(x, run) : run(x);
      x = outs[0];
      if (aux) aux->insert(aux->end(), outs.begin() + 1, outs.end());
      trace.activation("model.layers." + std::to_string(i), x.value);
    }
    x = rms_norm(x, *norm_, eps);
    trace.activation("model.norm", x.value);
    return x;
  }

  KvCache make_cache(int64_t capacity) const override {
    KvCache cache;
    cache.capacity = capacity;
    for (size_t i = 0; i < blocks_.size(); ++i)
      cache.layers.push_back(
          {empty({capacity, config.kv_lora_rank}), empty({capacity, config.qk_rope_dim})});
    return cache;
  }

  Tensor extend(Ctx& ctx, KvCache& cache, const std::vector<int32_t>& ids) override {
    constexpr int64_t kAbsorb =
        8;  // up to so many new tokens attend in the latent space, more expand keys and values
    int64_t n = static_cast<int64_t>(ids.size()), S = cache.length + n;
    check(S <= cache.capacity, "the sequence of {} tokens does not fit the cache of {}", S,
          cache.capacity);
    Tape tape(ctx, false);
    Trace none;
    Tensor id = empty({n}, DType::I32), pos = empty({n}, DType::I32),
           start = zeros({S}, DType::I32);
    for (int64_t i = 0; i < n; ++i) {
      id.i32()[i] = ids[i];
      pos.i32()[i] = static_cast<int32_t>(cache.length + i);
    }
    RopeAngles a = angles(pos);
    float eps = static_cast<float>(config.norm_eps);
    std::vector<int32_t> rows{0, static_cast<int32_t>(n)};
    Var x = embed(tape, id, *embed_);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const Block& b = blocks_[i];
      LayerCache& lc = cache.layers[i];
      Var h = rms_norm(x, *b.norm1, eps);
      Var q = b.attn.query(h, a);
      auto [latent, pe] = b.attn.latent(h, a);
      copy_into(lc.latent.slice(cache.length, S), latent.value);
      copy_into(lc.pe.slice(cache.length, S), pe.value);
      Tensor all = lc.latent.slice(0, S), all_pe = lc.pe.slice(0, S);
      Var out;
      if (n <= kAbsorb && !b.attn.kv_b->lora) {
        Tensor o = empty({n * config.heads, config.v_head_dim});
        ctx.k->mla_decode_fwd(ctx, o, q.value, all, all_pe, b.attn.kv_b->value,
                              static_cast<int>(config.heads), b.attn.scale);
        out = linear(tape.constant(o.view({n, config.heads * config.v_head_dim})), *b.attn.o);
      } else {
        out = b.attn.expanded(q, tape.constant(all), tape.constant(all_pe), start);
      }
      x = b.feed_forward(add(x, out), eps, rows, none, nullptr);
    }
    cache.length = S;
    return rms_norm(x, *norm_, eps).value;
  }

 private:
  RopeAngles angles(const Tensor& positions) const {
    int64_t T = positions.numel(), half = config.qk_rope_dim / 2;
    RopeAngles a{empty({T, half}), empty({T, half})};
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < half; ++i) {
        // f32 products, as the reference computes them.
        float angle = static_cast<float>(positions.i32()[t]) * static_cast<float>(inv_freq_[i]);
        a.cos.row(t)[i] = static_cast<float>(std::cos(angle) * cos_scale_);
        a.sin.row(t)[i] = static_cast<float>(std::sin(angle) * cos_scale_);
      }
    return a;
  }

  Param *embed_, *norm_, *head_;
  std::deque<Block> blocks_;
  std::vector<double> inv_freq_;
  double cos_scale_;
};

}  // namespace

std::unique_ptr<Model> make_deepseek_v2(
    const Config& c, std::function<Tensor(const std::string&, const Shape&)> source) {
  return std::make_unique<DeepseekV2>(c, std::move(source));
}

}  // namespace sutor
