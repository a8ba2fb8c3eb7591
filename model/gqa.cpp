#include "model/gqa.h"

namespace sutor {

Gqa::Options read_gqa(const Reader& r, const Config& c, int64_t kv_heads, int64_t head_dim) {
  Gqa::Options o{};
  o.heads = c.heads;
  bool null = r.j.contains("num_key_value_heads") && !r.has("num_key_value_heads");
  o.kv_heads = r.positive("num_key_value_heads", kv_heads > 0 && !null ? kv_heads : c.heads);
  check(c.heads % o.kv_heads == 0, "{}: num_key_value_heads {} does not divide the {} heads",
        r.where, o.kv_heads, c.heads);
  if (!r.has("head_dim") && head_dim == 0)
    check(c.hidden % c.heads == 0,
          "{}: num_attention_heads {} does not divide hidden_size {} and there is no head_dim",
          r.where, c.heads, c.hidden);
  o.head_dim = r.positive("head_dim", head_dim > 0 ? head_dim : c.hidden / c.heads);
  check(o.head_dim % 2 == 0, "{}: head_dim is {}, must be even", r.where, o.head_dim);
  check(c.rope.type != RopeType::kDynamic || o.head_dim > 2,
        "{}: dynamic RoPE needs a head_dim above 2", r.where);
  return o;
}

namespace {

int64_t sliding_window(const Reader& r, int64_t fallback) {
  bool null = r.j.contains("sliding_window") && !r.has("sliding_window");
  return null ? 0 : r.not_negative("sliding_window", fallback);
}

}  // namespace

std::vector<int64_t> read_windows(const Reader& r, const Config& c, int64_t fallback,
                                  const std::function<bool(int64_t layer)>& slides) {
  int64_t window = sliding_window(r, fallback);
  std::vector<int64_t> out(c.layers, 0);
  const Json* types = r.has("layer_types") ? &r.j.at("layer_types") : nullptr;
  check(!types || (types->is_array() && static_cast<int64_t>(types->size()) == c.layers),
        "{}: layer_types must be a list of num_hidden_layers = {} strings", r.where, c.layers);
  bool any = false;
  for (int64_t i = 0; i < c.layers; ++i) {
    bool here = slides(i);
    if (types) {
      check((*types)[i] == "full_attention" || (*types)[i] == "sliding_attention",
            "{}: layer_types has {}, known: full_attention, sliding_attention", r.where,
            (*types)[i].dump());
      here = (*types)[i] == "sliding_attention";
    }
    if (here) out[i] = window;
    any |= here && window > 0;
  }
  return any ? out : std::vector<int64_t>();
}

std::vector<int64_t> read_one_window(const Reader& r, const Config& c, int64_t fallback) {
  int64_t window = sliding_window(r, fallback);
  const char* kind = window > 0 ? "sliding_attention" : "full_attention";
  const Json types = r.has("layer_types") ? r.j.at("layer_types") : Json::array();
  check(types.is_array(), "{}: layer_types must be a list of strings", r.where);
  for (const Json& t : types)
    check(t == kind,
          "{}: layer_types has {}: layers of different windows are not implemented for this "
          "model_type (allowed with sliding_window {}: {})",
          r.where, t.dump(), window, kind);
  return window > 0 ? std::vector<int64_t>(c.layers, window) : std::vector<int64_t>();
}

std::vector<int64_t> read_last_windows(const Reader& r, const Config& c) {
  if (!r.value("use_sliding_window", false)) return {};
  int64_t first = r.not_negative("max_window_layers", 28);
  return read_windows(r, c, 4096, [first](int64_t i) { return i >= first; });
}

Gqa::Gqa(const Config& c, Scope s, const Options& options)
    : opt(options),
      eps(static_cast<float>(c.norm_eps)),
      scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(options.head_dim)))) {
  int64_t H = c.hidden, Q = opt.heads * opt.head_dim, K = opt.kv_heads * opt.head_dim;
  auto linear = [&](const char* name, int64_t out, int64_t in, bool with_bias, Param*& w,
                    Param*& b) {
    w = &(s / name).param("weight", {out, in});
    if (with_bias) b = &(s / name).param("bias", {out});
  };
  linear("q_proj", Q, H, opt.qkv_bias, q, q_bias);
  linear("k_proj", K, H, opt.qkv_bias, k, k_bias);
  linear("v_proj", K, H, opt.qkv_bias, v, v_bias);
  linear("o_proj", H, Q, opt.o_bias, o, o_bias);
  if (opt.norm == QkNorm::kNone) return;
  bool head = opt.norm == QkNorm::kHead;
  q_norm = &s.param("q_norm.weight", {head ? opt.head_dim : Q});
  k_norm = &s.param("k_norm.weight", {head ? opt.head_dim : K});
}

Gqa::Qkv Gqa::project(const Var& x, const RopeAngles& angles) const {
  auto heads = [&](const Param& w, const Param* bias, const Param* norm) {
    Var y = linear(x, w, bias);
    if (norm && opt.norm == QkNorm::kFull) y = rms_norm(y, *norm, eps);
    if (opt.clip > 0) y = clamped(y, opt.clip);
    y = reshape(y, {y.value.numel() / opt.head_dim, opt.head_dim});
    return norm && opt.norm == QkNorm::kHead ? rms_norm(y, *norm, eps) : y;
  };
  return {rope_tail(heads(*q, q_bias, q_norm), opt.head_dim, angles, false),
          rope_tail(heads(*k, k_bias, k_norm), opt.head_dim, angles, false),
          heads(*v, v_bias, nullptr)};
}

Var Gqa::attend(const Var& q, const Var& k, const Var& v, const Tensor& start) const {
  Var a =
      attention(q, k, v, start, static_cast<int>(opt.heads), static_cast<int>(opt.kv_heads), scale);
  return linear(reshape(a, {a.value.rows() / opt.heads, opt.heads * opt.head_dim}), *o, o_bias);
}

Var Gqa::operator()(const Var& x, const Places& p) const {
  Qkv y = project(x, p.angles);
  return attend(y.q, y.k, y.v, p.start);
}

LayerCache Gqa::make_cache(int64_t capacity) const {
  Shape shape{capacity * opt.kv_heads, opt.head_dim};
  return {empty(shape), empty(shape)};
}

Var Gqa::extend(const Var& x, const Places& p, LayerCache& cache, int64_t length) const {
  int64_t G = opt.kv_heads, S = length + x.value.rows();
  Qkv y = project(x, p.angles);
  copy_into(cache.k.slice(length * G, S * G), y.k.value);
  copy_into(cache.v.slice(length * G, S * G), y.v.value);
  return attend(y.q, x.tape->constant(cache.k.slice(0, S * G)),
                x.tape->constant(cache.v.slice(0, S * G)), p.start);
}

Var Gqa::extend_each(const Var& x, const RopeAngles& angles,
                     const std::vector<Cached>& sequences) const {
  const int64_t G = opt.kv_heads, N = opt.heads;
  Ctx& ctx = x.tape->ctx;
  Qkv y = project(x, angles);
  Tensor a = empty({x.value.rows() * N, opt.head_dim});
  for (int64_t i = 0; i < x.value.rows(); ++i) {
    const Cached& c = sequences[i];
    const int64_t S = c.length + 1;
    copy_into(c.cache->k.slice(c.length * G, S * G), y.k.value.slice(i * G, (i + 1) * G));
    copy_into(c.cache->v.slice(c.length * G, S * G), y.v.value.slice(i * G, (i + 1) * G));
    ctx.k->attention_fwd(ctx, a.slice(i * N, (i + 1) * N), {}, y.q.value.slice(i * N, (i + 1) * N),
                         c.cache->k.slice(0, S * G), c.cache->v.slice(0, S * G), c.start,
                         static_cast<int>(N), static_cast<int>(G), scale);
  }
  return linear(x.tape->constant(a.view({x.value.rows(), N * opt.head_dim})), *o, o_bias);
}

}  // namespace sutor
