// Keeps x only where W trains. y = x W^T + b, and with LoRA y += scale * (x A^T) B^T. Kernels:
// engine/cpu/linear.cpp.
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
  ctx.k->linear_fwd(ctx, y, x.value, wv.value, bv.value);
  return tape.record(
      y, {x.grad, wv.grad, bv.grad},
      [&ctx, x = wv.grad ? x.value : Tensor{}, w = wv.value, dx = x.grad, dw = wv.grad,
       db = bv.grad](const Tensor& dy) { ctx.k->linear_bwd(ctx, dx(), dw(), db(), dy, x, w); });
}

}  // namespace

Var linear(const Var& x, const Param& w, const Param* bias) {
  Var y = linear_in(x.tape->ctx, x, w, bias);
  if (!w.lora) return y;
  Var low = linear_in(x.tape->ctx, x, *w.lora->a, nullptr);
  return add(y, scaled(linear_in(x.tape->ctx, low, *w.lora->b, nullptr), w.lora->scale));
}

Var linear_exact(const Var& x, const Param& w) {
  return linear_in(exact(x.tape->ctx), x, w, nullptr);
}

}  // namespace sutor
