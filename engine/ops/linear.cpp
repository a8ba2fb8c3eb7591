// y = x W^T + b, and with LoRA y += s (drop(x) A^T) B^T (arXiv 2106.09685). Keeps x only where W or
// A trains, and of the LoRA term the [T,r] product with A; the scale is applied there. Kernels:
// engine/cpu/linear.cpp.
#include <map>
#include <mutex>

#include "engine/ops/dropout.h"

namespace sutor {
namespace {

// A context whose products keep f32: what routers want. Lives as long as the process, so closures
// may refer to it, whichever thread made them.
Ctx& exact(Ctx& ctx) {
  static std::mutex mutex;
  static std::map<const Backend*, Ctx> contexts;  // nodes stay where they are
  std::lock_guard lock(mutex);
  return contexts.try_emplace(ctx.k, Ctx{ctx.k, Compute::kF32}).first->second;
}

Tensor times(Ctx& ctx, const Tensor& x, float factor) {
  Tensor y = zeros(x.shape);
  ctx.k->accumulate(ctx, y, x, factor);
  return y;
}

struct LoraTerm {
  Tensor low;  // [T,r] s drop(x) A^T; empty: no LoRA
  Tensor a, b;
  Grad da, db;
  float scale = 1;
  Dropout drop;

  void backward(Ctx& ctx, const Tensor& dx, const Tensor& dy, const Tensor& x) const {
    Tensor dlow = zeros(low.shape);
    ctx.k->linear_bwd(ctx, dlow, db(), {}, dy, low, b);
    dlow = times(ctx, dlow, scale);
    Tensor din = !dx || drop.p == 0 ? dx : zeros(dx.shape);
    ctx.k->linear_bwd(ctx, din, da(), {}, dlow, da ? dropped(ctx, x, drop) : Tensor{}, a);
    if (dx && drop.p != 0) ctx.k->dropout_bwd(ctx, dx, din, drop);
  }
};

// Adds the term to y.
LoraTerm add_lora_term(Tape& tape, const Tensor& y, const Tensor& x, const Param& w) {
  Ctx& ctx = tape.ctx;
  const Lora& l = *w.lora;
  Var a = tape.param(*l.a), b = tape.param(*l.b);
  LoraTerm t{empty({x.rows(), a.value.dim(0)}), a.value, b.value, a.grad, b.grad, l.scale,
             dropout_at(ctx, l.dropout, w.name)};
  ctx.k->linear_fwd(ctx, t.low, dropped(ctx, x, t.drop), t.a, {});
  t.low = times(ctx, t.low, l.scale);
  Tensor more = empty(y.shape);
  ctx.k->linear_fwd(ctx, more, t.low, t.b, {});
  ctx.k->accumulate(ctx, y, more, 1.0f);
  return t;
}

Var linear_in(Ctx& ctx, const Var& x, const Param& w, const Param* bias) {
  check(x.value.cols() == w.value.dim(1), "linear {}: x has {} columns, the weight expects {}",
        w.name, x.value.cols(), w.value.dim(1));
  Tape& tape = *x.tape;
  Tensor y = empty({x.value.rows(), w.value.dim(0)});
  Var wv = tape.param(w), bv = bias ? tape.param(*bias) : Var{};
  ctx.k->linear_fwd(ctx, y, x.value, wv.value, bv.value);
  LoraTerm lora = w.lora ? add_lora_term(tape, y, x.value, w) : LoraTerm{};
  return tape.record(y, {x.grad, wv.grad, bv.grad, lora.da, lora.db},
                     [&ctx, x = wv.grad || lora.da ? x.value : Tensor{}, w = wv.value, dx = x.grad,
                      dw = wv.grad, db = bv.grad, lora](const Tensor& dy) {
                       ctx.k->linear_bwd(ctx, dx(), dw(), db(), dy, x, w);
                       if (lora.low) lora.backward(ctx, dx(), dy, x);
                     });
}

}  // namespace

Var linear(const Var& x, const Param& w, const Param* bias) {
  return linear_in(x.tape->ctx, x, w, bias);
}

Var linear_exact(const Var& x, const Param& w) {
  return linear_in(exact(x.tape->ctx), x, w, nullptr);
}

}  // namespace sutor
