#pragma once
// The skeleton all families share: embedding, blocks of x += attention(norm x), x += mlp, moe or
// adapter_moe(norm x), final norm, head. `Attention` (Mla, Gqa) is built once per layer from its
// Options and offers operator()(x, places), make_cache(capacity), extend(x, places, cache, length),
// extend_each(x, angles, sequences).

#include <deque>
#include <map>
#include <string>

#include "engine/expert_ranks.h"
#include "model/adapter_moe.h"
#include "model/family.h"

namespace sutor {

struct DecoderOptions {
  MoeOptions moe;
  MlpOptions mlp;                   // of dense layers, and before adapters
  const char* adapter = "expert_";  // what an adapter's number follows in its name
  std::vector<int64_t>
      window;  // by layer: how many tokens, itself among them, a token sees; 0: all
};

template <class Attention>
class Decoder : public Model {
 public:
  Decoder(const Config& c, WeightSource source, const typename Attention::Options& attention,
          int64_t rope_dim, const DecoderOptions& opt)
      : rope_(c.rope, rope_dim), window_(opt.window) {
    config = c;
    params.source = std::move(source);
    Scope root{params, ""}, s = root / "model";
    embed_ = &s.param("embed_tokens.weight", {c.vocab, c.hidden});
    for (int i = 0; i < c.layers; ++i)
      layers_.emplace_back(config, s / "layers" / i, i, attention, opt);
    norm_ = &s.param("norm.weight", {c.hidden});
    head_ = c.tie_embeddings ? embed_ : &root.param("lm_head.weight", {c.vocab, c.hidden});
  }

  const Param& head() const override { return *head_; }

  Var hidden(Tape& tape, const Batch& batch, Trace& trace, std::vector<Var>* aux) override {
    RopeAngles angles = rope_.angles(batch.positions);
    Starts starts(batch.start);
    float eps = static_cast<float>(config.norm_eps);
    Var x = embed(tape, batch.ids, *embed_);
    trace.activation("model.embed_tokens", x.value);
    size_t last_router = layers_.size();
    if (trace.routing_only())
      while (last_router > 0 && layers_[last_router - 1].mlp) --last_router;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& b = layers_[i];
      if (trace.routing_only() && i + 1 == last_router) {
        Var h = add(x, b.attention(rms_norm(x, *b.norm1, eps), {angles, starts.of(window(i))}));
        Var in = rms_norm(h, *b.norm2, eps);
        b.moe ? b.moe->route(in, trace) : b.adapters->route(in, trace);
        return h;
      }
      auto run = [&b, &trace, balance = aux != nullptr, eps,
                  places = Places{angles, starts.of(window(i))},
                  sequences = Sequences{batch.rows, batch.real}](const Var& in) {
        Var h = add(in, b.attention(rms_norm(in, *b.norm1, eps), places));
        std::vector<Var> outs(1);  // hidden states, then the balance loss if asked for
        Var y = b.feed_forward(h, eps, sequences, trace, balance ? &outs : nullptr);
        outs[0] = y;
        return outs;
      };
      std::vector<Var> outs = recompute ? checkpoint(x, run) : run(x);
      x = outs[0];
      if (aux) aux->insert(aux->end(), outs.begin() + 1, outs.end());
      trace.activation("model.layers." + std::to_string(i), x.value);
    }
    if (aux && !aux->empty() && config.aux == AuxLoss::kSwitch) {
      // PESC's paper adds n sum_i f_i p_i of every layer, f the shares of the choices.
      // transformers' pools the layers, which even layers do not need to obey: theirs may cancel
      // each other.
      if (config.adapter_dim == 0)
        *aux = {switch_balance_loss(*aux, config.route.top_k)};
      else
        for (Var& l : *aux)
          l = scaled(switch_balance_loss({l}, config.route.top_k),
                     1.0f / static_cast<float>(config.route.top_k));
    }
    x = rms_norm(x, *norm_, eps);
    trace.activation("model.norm", x.value);
    return x;
  }

  void share_experts(const Comm& comm, const std::vector<std::vector<int>>& owner,
                     bool same_tokens) override {
    for (size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].moe)
        layers_[i].moe->share({comm, owner.at(i), same_tokens, &params.experts()});
  }

  KvCache make_cache(int64_t capacity) const override {
    KvCache cache;
    cache.capacity = capacity;
    for (const Layer& b : layers_) cache.layers.push_back(b.attention.make_cache(capacity));
    return cache;
  }

  Tensor extend_each(Ctx& ctx, const std::vector<KvCache*>& caches,
                     const std::vector<int32_t>& ids) override {
    const auto n = static_cast<int64_t>(ids.size());
    Tape tape(ctx, false);
    Trace none;
    Tensor id = empty({n}, DType::I32), pos = empty({n}, DType::I32);
    std::vector<Starts> starts;
    for (int64_t i = 0; i < n; ++i) {
      const KvCache& c = *caches[i];
      check(c.length < c.capacity, "the sequence of {} tokens does not fit the cache of {}",
            c.length + 1, c.capacity);
      id.i32()[i] = ids[i];
      pos.i32()[i] = static_cast<int32_t>(c.length);
      starts.emplace_back(zeros({c.length + 1}, DType::I32));
    }
    RopeAngles angles = rope_.angles(pos, true);
    float eps = static_cast<float>(config.norm_eps);
    Var x = embed(tape, id, *embed_);
    std::vector<Cached> cached(ids.size());
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& b = layers_[i];
      for (size_t s = 0; s < cached.size(); ++s)
        cached[s] = {&caches[s]->layers[i], caches[s]->length, starts[s].of(window(i))};
      x = add(x, b.attention.extend_each(rms_norm(x, *b.norm1, eps), angles, cached));
      x = b.feed_forward(x, eps, {{0, static_cast<int32_t>(n)}, {}}, none, nullptr);
    }
    for (KvCache* c : caches) ++c->length;
    return rms_norm(x, *norm_, eps).value;
  }

  Tensor extend(Ctx& ctx, KvCache& cache, const std::vector<int32_t>& ids,
                int64_t wanted) override {
    int64_t n = static_cast<int64_t>(ids.size()), S = cache.length + n;
    check(S <= cache.capacity, "the sequence of {} tokens does not fit the cache of {}", S,
          cache.capacity);
    Tape tape(ctx, false);
    Trace none;
    Tensor id = empty({n}, DType::I32), pos = empty({n}, DType::I32);
    for (int64_t i = 0; i < n; ++i) {
      id.i32()[i] = ids[i];
      pos.i32()[i] = static_cast<int32_t>(cache.length + i);
    }
    Starts starts(zeros({S}, DType::I32));
    RopeAngles angles = rope_.angles(pos, cache.length > 0);
    float eps = static_cast<float>(config.norm_eps);
    Var x = embed(tape, id, *embed_);
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& b = layers_[i];
      Var h = b.attention.extend(rms_norm(x, *b.norm1, eps), {angles, starts.of(window(i))},
                                 cache.layers[i], cache.length);
      x = add(x, h);
      if (i + 1 == layers_.size()) x = tape.constant(x.value.slice(n - wanted, n));
      Sequences sequences{{0, static_cast<int32_t>(x.value.rows())}, {}};
      x = b.feed_forward(x, eps, sequences, none, nullptr);
    }
    cache.length = S;
    return rms_norm(x, *norm_, eps).value;
  }

 private:
  struct Layer {
    Param *norm1, *norm2;
    Attention attention;
    std::optional<Mlp> mlp;
    std::optional<MoeBlock> moe;
    std::optional<AdapterMoe> adapters;

    Layer(const Config& c, Scope s, int i, const typename Attention::Options& attn,
          const DecoderOptions& opt)
        : norm1(&s.param("input_layernorm.weight", {c.hidden})),
          norm2(&s.param("post_attention_layernorm.weight", {c.hidden})),
          attention(c, s / "self_attn", attn) {
      if (c.adapter_dim > 0)
        adapters.emplace(c, s / "mlp", i, opt.mlp, opt.adapter);
      else if (c.is_moe(i))
        moe.emplace(c, s / opt.moe.block, i, opt.moe);
      else
        mlp.emplace(s / "mlp", c.hidden, c.intermediate, opt.mlp);
    }

    Var feed_forward(const Var& x, float eps, const Sequences& sequences, Trace& trace,
                     std::vector<Var>* aux) const {
      Var h = rms_norm(x, *norm2, eps);
      if (adapters) return add(x, (*adapters)(h, sequences, trace, aux));
      return add(x, moe ? (*moe)(h, sequences, trace, aux) : (*mlp)(h));
    }
  };

  // First token that each may see, by window.
  struct Starts {
    explicit Starts(Tensor start) { by_window[0] = std::move(start); }
    Tensor of(int64_t window) {
      auto [at, fresh] = by_window.try_emplace(window);
      if (fresh) {
        const Tensor& start = by_window[0];
        at->second = empty(start.shape, DType::I32);
        for (int64_t t = 0; t < start.numel(); ++t)
          at->second.i32()[t] =
              std::max(start.i32()[t], static_cast<int32_t>(std::max<int64_t>(0, t - window + 1)));
      }
      return at->second;
    }
    std::map<int64_t, Tensor> by_window;
  };

  int64_t window(size_t layer) const { return window_.empty() ? 0 : window_[layer]; }

  Rope rope_;
  std::vector<int64_t> window_;
  Param *embed_, *norm_, *head_;
  std::deque<Layer> layers_;
};

}  // namespace sutor
