// y = x W^T + b, and with LoRA y += s (drop(x) A^T) B^T (arXiv 2106.09685). Keeps x only where W or
// A trains, and of the LoRA the [T,r] product with A, times s. Kernels: engine/cpu/linear.cpp.
#include <map>
#include <mutex>

#include "engine/ops.h"

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

Var linear_in(Ctx& ctx, const Var& x, const Param& w, const Param* bias) {
  check(x.value.cols() == w.value.dim(1), "linear {}: x has {} columns, the weight expects {}",
        w.name, x.value.cols(), w.value.dim(1));
  Tape& tape = *x.tape;
  Tensor y = empty({x.value.rows(), w.value.dim(0)});
  Var wv = tape.param(w), bv = bias ? tape.param(*bias) : Var{};
  if (!w.lora) {
    ctx.k->linear_fwd(ctx, y, x.value, wv.value, bv.value);
    return tape.record(
        y, {x.grad, wv.grad, bv.grad},
        [&ctx, x = wv.grad ? x.value : Tensor{}, w = wv.value, dx = x.grad, dw = wv.grad,
         db = bv.grad](const Tensor& dy) { ctx.k->linear_bwd(ctx, dx(), dw(), db(), dy, x, w); });
  }
  Var a = tape.param(*w.lora->a), b = tape.param(*w.lora->b);
  Tensor low = empty({x.value.rows(), a.value.dim(0)});
  float scale = w.lora->scale;
  Dropout drop = dropout_at(ctx, w.lora->dropout, w.name);
  ctx.k->lora_linear_fwd(ctx, y, low, x.value, wv.value, bv.value, a.value, b.value, scale, drop);
  return tape.record(y, {x.grad, wv.grad, bv.grad, a.grad, b.grad},
                     [&ctx, x = wv.grad || a.grad ? x.value : Tensor{}, w = wv.value, low, scale,
                      drop, dx = x.grad, dw = wv.grad, db = bv.grad, a, b](const Tensor& dy) {
                       ctx.k->lora_linear_bwd(ctx, dx(), dw(), db(), a.grad(), b.grad(), dy, x, w,
                                              low, a.value, b.value, scale, drop);
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
