// What each fusion is worth. A variant is one function below and its line in kFusions: it makes its
// inputs, gives the fused form and the separate one as two closures over public kernels
// (engine/kernels.def) with the tensors they leave, and the bytes that the separate form moves
// more. Test: tests/bench.cpp holds both forms to the same result.
#include "engine/bench.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "engine/bench_timing.h"
#include "engine/ops.h"
#include "engine/quant.h"

namespace sutor {
using namespace timing;
namespace {

struct Sizes {
  int64_t tokens, hidden, width, experts, top_k, vocab, rank;
};
constexpr Sizes kLarge{512, 2048, 1408, 64, 6, 32768, 64}, kSmall{48, 192, 80, 8, 2, 700, 16};

struct Variant {
  std::string shape;
  std::function<void()> fused, apart;
  std::vector<Tensor> of_fused, of_apart;  // results, one by one the same
  double bytes = 0;
};

double bytes_of(std::initializer_list<Tensor> tensors) {  // written once, read once
  double b = 0;
  for (const Tensor& t : tensors) b += 2 * static_cast<double>(t.nbytes());
  return b;
}

// A layer of experts and tokens spread over them.
struct Moe {
  Sizes s;
  int64_t pairs = s.tokens * s.top_k;
  ExpertWeights w = made_experts(s.experts, s.hidden, s.width);
  Tensor expert = spread_experts(s.tokens, s.experts, s.top_k),
         x = made({s.tokens, s.hidden}, DType::F32, 1),
         weight = made({s.tokens, s.top_k}, DType::F32, 4), y = empty({s.tokens, s.hidden}),
         other = empty({s.tokens, s.hidden});
  MoeIndex index = sort_by_expert(expert, static_cast<int>(s.experts));
  std::string shape =
      fmt::format("{} tokens, {} x {}, {} of {}", s.tokens, s.hidden, s.width, s.top_k, s.experts);
  explicit Moe(const Sizes& sizes) : s(sizes) {}

  Tensor tokens() const {  // of the pairs, in their order
    Tensor t = empty({pairs}, DType::I32);
    for (int64_t p = 0; p < pairs; ++p) t.i32()[p] = static_cast<int32_t>(p / s.top_k);
    return t;
  }
  Tensor tokens_of(int64_t e) const {
    int64_t lo = index.offset[e], n = index.offset[e + 1] - lo;
    Tensor t = empty({n}, DType::I32);
    for (int64_t i = 0; i < n; ++i) t.i32()[i] = index.pair[lo + i] / static_cast<int>(s.top_k);
    return t;
  }
};

Variant gather_scatter(Ctx& ctx, const Sizes& s) {
  auto m = std::make_shared<Moe>(s);
  auto one = std::make_shared<MoeIndex>(
      sort_by_expert(m->expert.view({m->pairs, 1}), static_cast<int>(s.experts)));
  Tensor tokens = m->tokens(), xs = empty({m->pairs, s.hidden}), ys = empty(xs.shape),
         weight = m->weight.view({m->pairs, 1});
  return {m->shape,
          [&ctx, m] { ctx.k->moe_ffn_fwd(ctx, m->y, {}, {}, m->x, m->weight, m->index, m->w); },
          [&ctx, m, one, tokens, xs, ys, weight] {
            ctx.k->gather_fwd(ctx, xs, m->x, tokens);
            ctx.k->moe_ffn_fwd(ctx, ys, {}, {}, xs, weight, *one, m->w);
            std::fill_n(m->other.f32(), m->other.numel(), 0.0f);
            ctx.k->gather_bwd(ctx, m->other, ys, tokens);
          },
          {m->y},
          {m->other},
          bytes_of({xs, ys})};
}

Variant one_region(Ctx& ctx, const Sizes& s) {
  auto m = std::make_shared<Moe>(s);
  Tensor xs = empty({m->pairs, s.hidden}), gate = empty({m->pairs, s.width}),
         up = empty(gate.shape), act = empty(gate.shape), ys = empty(xs.shape);
  return {m->shape,
          [&ctx, m] { ctx.k->moe_ffn_fwd(ctx, m->y, {}, {}, m->x, m->weight, m->index, m->w); },
          [&ctx, m, xs, gate, up, act, ys] {
            std::fill_n(m->other.f32(), m->other.numel(), 0.0f);
            for (int64_t e = 0; e < m->s.experts; ++e) {
              int64_t lo = m->index.offset[e], hi = m->index.offset[e + 1];
              if (lo == hi) continue;
              Tensor tokens = m->tokens_of(e), rows = ys.slice(lo, hi);
              ctx.k->gather_fwd(ctx, xs.slice(lo, hi), m->x, tokens);
              ctx.k->linear_fwd(ctx, gate.slice(lo, hi), xs.slice(lo, hi), m->w.gate[e], {});
              ctx.k->linear_fwd(ctx, up.slice(lo, hi), xs.slice(lo, hi), m->w.up[e], {});
              ctx.k->swiglu_fwd(ctx, act.slice(lo, hi), gate.slice(lo, hi), up.slice(lo, hi));
              ctx.k->linear_fwd(ctx, rows, act.slice(lo, hi), m->w.down[e], {});
              for (int64_t i = lo; i < hi; ++i)
                ctx.k->accumulate(ctx,
                                  m->other.slice(tokens.i32()[i - lo], tokens.i32()[i - lo] + 1),
                                  ys.slice(i, i + 1), m->weight.f32()[m->index.pair[i]]);
            }
          },
          {m->y},
          {m->other},
          bytes_of({xs, gate, up, act})};
}

Variant swiglu_epilogue(Ctx& ctx, const Sizes& s) {
  auto m = std::make_shared<Moe>(s);
  Tensor gate = empty({m->pairs, s.width}, kept_type(ctx.compute)), up = empty_like(gate);
  return {m->shape,
          [&ctx, m] { ctx.k->moe_ffn_fwd(ctx, m->y, {}, {}, m->x, m->weight, m->index, m->w); },
          [&ctx, m, gate, up] {
            ctx.k->moe_ffn_fwd(ctx, m->other, gate, up, m->x, m->weight, m->index, m->w);
          },
          {m->y},
          {m->other},
          bytes_of({gate, up}) / 2};  // written alone: backward reads them
}

Variant restricted_dw(Ctx& ctx, const Sizes& s) {
  auto m = std::make_shared<Moe>(s);
  Tensor gate = empty({m->pairs, s.width}, kept_type(ctx.compute)), up = empty_like(gate),
         dy = made(m->x.shape, DType::F32, 5);
  ctx.k->moe_ffn_fwd(ctx, m->y, gate, up, m->x, m->weight, m->index, m->w);
  auto grads = [&](int64_t n) {
    auto dw = std::make_shared<ExpertWeights>();
    for (int64_t e = 0; e < s.experts; ++e) {
      dw->gate.push_back(e < n ? zeros({s.width, s.hidden}) : Tensor{});
      dw->up.push_back(e < n ? zeros({s.width, s.hidden}) : Tensor{});
      dw->down.push_back(e < n ? zeros({s.hidden, s.width}) : Tensor{});
    }
    return dw;
  };
  auto some = grads(s.experts / 8), all = grads(s.experts);
  std::vector<Tensor> of_some{m->y}, of_all{m->other};
  for (int64_t e = 0; e < s.experts / 8; ++e)
    for (auto part : {&ExpertWeights::gate, &ExpertWeights::up, &ExpertWeights::down}) {
      of_some.push_back(((*some).*part)[e]);
      of_all.push_back(((*all).*part)[e]);
    }
  // Gradients add up from call to call, in both alike.
  auto backward = [&ctx, m, gate, up, dy](const Tensor& dx, ExpertWeights* dw) {
    std::fill_n(dx.f32(), dx.numel(), 0.0f);
    ctx.k->moe_ffn_bwd(ctx, dx, {}, dw, dy, m->x, m->weight, gate, up, m->index, m->w);
  };
  return {m->shape + ", backward",
          [=] { backward(m->y, some.get()); },
          [=] { backward(m->other, all.get()); },
          of_some,
          of_all,
          24.0 * static_cast<double>((s.experts - s.experts / 8) * s.width * s.hidden)};
}

Variant chunked_loss(Ctx& ctx, const Sizes& s) {
  int64_t T = 4 * s.tokens, chunk = std::min(loss_chunk_rows(s.vocab), T / 2 + 1);
  Tensor x = made({T, s.hidden}, DType::F32, 1), head = made({s.vocab, s.hidden}, DType::BF16, 2),
         logits = empty({T, s.vocab}), part = empty({chunk, s.vocab}), nll = empty({T}),
         other_nll = empty({T}), labels = empty({T}, DType::I32), dx = zeros(x.shape),
         other = zeros(x.shape);
  for (int64_t t = 0; t < T; ++t) labels.i32()[t] = static_cast<int32_t>(t * 31 % s.vocab);
  auto rows = [=, &ctx](const Tensor& dx, const Tensor& nll, const Tensor& logits, int64_t lo,
                        int64_t hi) {
    ctx.k->linear_fwd(ctx, logits, x.slice(lo, hi), head, {});
    ctx.k->cross_entropy(ctx, nll.slice(lo, hi), logits, labels.slice(lo, hi), 1.0f, true);
    ctx.k->linear_bwd(ctx, dx.slice(lo, hi), {}, {}, logits, x.slice(lo, hi), head);
  };
  return {fmt::format("{} tokens, {} -> {}", T, s.hidden, s.vocab),
          [=] {
            std::fill_n(dx.f32(), dx.numel(), 0.0f);
            for (int64_t lo = 0; lo < T; lo += chunk) {
              int64_t hi = std::min(T, lo + chunk);
              rows(dx, nll, part.slice(0, hi - lo), lo, hi);
            }
          },
          [=] {
            std::fill_n(other.f32(), other.numel(), 0.0f);
            rows(other, other_nll, logits, 0, T);
          },
          {dx, nll},
          {other, other_nll},
          static_cast<double>(logits.nbytes() - part.nbytes())};  // held, not moved
}

Variant lora_sums(Ctx& ctx, const Sizes& s) {
  int64_t T = s.tokens, N = s.width, K = s.hidden, r = s.rank;
  Tensor x = made({T, K}, DType::F32, 1), w = made({N, K}, DType::BF16, 2),
         a = made({r, K}, DType::BF16, 3), b = made({N, r}, DType::BF16, 4), y = empty({T, N}),
         other = empty({T, N}), low = empty({T, r}), other_low = empty({T, r}),
         more = empty({T, N}), in = empty({T, K});
  Dropout drop{0.1f, 7};
  return {fmt::format("{} tokens, {} -> {}, rank {}", T, K, N, r),
          [=, &ctx] { ctx.k->lora_linear_fwd(ctx, y, low, x, w, {}, a, b, 0.25f, drop); },
          [=, &ctx] {
            ctx.k->linear_fwd(ctx, other, x, w, {});
            ctx.k->dropout_fwd(ctx, in, x, drop);
            ctx.k->linear_fwd(ctx, other_low, in, a, {});
            ctx.k->linear_fwd(ctx, more, other_low, b, {});
            ctx.k->accumulate(ctx, other, more, 0.25f);
          },
          {y},
          {other},
          bytes_of({in, more, y})};
}

Variant nf4_in_kernel(Ctx& ctx, const Sizes& s) {
  int64_t T = s.tokens, N = 4 * s.width, K = s.hidden;
  Tensor x = made({T, K}, DType::F32, 1), wide = made({N, K}, DType::BF16, 2),
         w = nf4_tensor(pack_nf4(wide), wide.shape, DType::BF16), y = empty({T, N}),
         other = empty({T, N});
  return {fmt::format("{} tokens, {} -> {}", T, K, N),
          [=, &ctx] { ctx.k->linear_fwd(ctx, y, x, w, {}); },
          [=, &ctx] { ctx.k->linear_fwd(ctx, other, x, unpacked(w), {}); },
          {y},
          {other},
          bytes_of({wide})};
}

struct Fusion {
  const char *name, *apart;
  Variant (*make)(Ctx&, const Sizes&);
};
constexpr Fusion kFusions[] = {
    {"gather and weighted scatter in the MoE kernel",
     "rows gathered to a tensor; summed from one more", gather_scatter},
    {"SwiGLU in the epilogue, nothing kept", "gate and up products written out", swiglu_epilogue},
    {"one region for all experts", "a loop over experts: gather, 3 linears, SwiGLU, scatter",
     one_region},
    {"dW of the experts that train (1 in 8)", "dW of all experts", restricted_dw},
    {"loss and its gradient by chunks of logits", "all logits at once", chunked_loss},
    {"LoRA in the weight's sums, dropout while packing", "4 kernels and a sum", lora_sums},
    {"NF4 unpacked in the kernel", "unpacked to BF16 first", nf4_in_kernel},
};

double distance(const Tensor& a, const Tensor& b) {
  if (b.numel() != a.numel()) return INFINITY;
  float most = 0, top = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    top = std::max(top, std::abs(a.f32()[i]));
    float d = std::abs(a.f32()[i] - b.f32()[i]);
    if (!(d <= most)) most = d;  // NaN too
  }
  return top > 0 ? most / top : most;
}

}  // namespace

std::vector<FusionTiming> time_fusions(Ctx& ctx, bool small, int repeats,
                                       const std::function<void(const FusionTiming&)>& done) {
  std::vector<FusionTiming> rows;
  for (const Fusion& f : kFusions) {
    Variant v = f.make(ctx, small ? kSmall : kLarge);
    FusionTiming row{f.name, f.apart, v.shape};
    std::tie(row.fused_seconds, row.apart_seconds) = median_seconds(repeats, v.fused, v.apart);
    row.bytes = v.bytes;
    for (size_t i = 0; i < v.of_fused.size(); ++i)
      row.difference = std::max(row.difference, distance(v.of_fused[i], v.of_apart[i]));
    rows.push_back(row);
    done(row);
  }
  return rows;
}

}  // namespace sutor
