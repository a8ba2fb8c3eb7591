// Sums, SwiGLU, embedding, row gathers and views. Kernels: engine/cpu/pointwise.cpp.
#include <cstring>

#include "engine/ops.h"

namespace sutor {

Var add(const Var& a, const Var& b) {
  if (a.value.shape != b.value.shape) [[unlikely]]
    fail("add {} and {}", to_string(a.value.shape), to_string(b.value.shape));
  Ctx& ctx = a.tape->ctx;
  Tensor y = empty(a.value.shape);
  ctx.k->add_fwd(ctx, y, a.value, b.value);
  return a.tape->record(y, {a.grad, b.grad}, [&ctx, da = a.grad, db = b.grad](const Tensor& dy) {
    if (da) ctx.k->accumulate(ctx, da(), dy, 1.0f);
    if (db) ctx.k->accumulate(ctx, db(), dy, 1.0f);
  });
}

Var scaled(const Var& x, float factor) {
  if (factor == 1.0f) return x;
  Ctx& ctx = x.tape->ctx;
  Tensor y = zeros(x.value.shape);
  ctx.k->accumulate(ctx, y, x.value, factor);
  return x.tape->record(y, {x.grad}, [&ctx, factor, dx = x.grad](const Tensor& dy) {
    ctx.k->accumulate(ctx, dx(), dy, factor);
  });
}

Var swiglu(const Var& gate, const Var& up) {
  Ctx& ctx = gate.tape->ctx;
  Tensor y = empty(gate.value.shape);
  ctx.k->swiglu_fwd(ctx, y, gate.value, up.value);
  return gate.tape->record(y, {gate.grad, up.grad},
                           [&ctx, g = gate.value, u = up.value, dg = gate.grad, du = up.grad](
                               const Tensor& dy) { ctx.k->swiglu_bwd(ctx, dg(), du(), dy, g, u); });
}

Var embed(Tape& tape, const Tensor& ids, const Param& w) {
  Ctx& ctx = tape.ctx;
  Var wv = tape.param(w);
  Tensor y = empty({ids.numel(), w.value.dim(1)});
  ctx.k->embed_fwd(ctx, y, ids, wv.value);
  return tape.record(y, {wv.grad}, [&ctx, ids, dw = wv.grad](const Tensor& dy) {
    ctx.k->embed_bwd(ctx, dw(), dy, ids);
  });
}

Var gather(const Var& x, const Tensor& idx) {
  Ctx& ctx = x.tape->ctx;
  Tensor y = empty({idx.numel(), x.value.cols()});
  ctx.k->gather_fwd(ctx, y, x.value, idx);
  return x.tape->record(y, {x.grad}, [&ctx, idx, dx = x.grad](const Tensor& dy) {
    ctx.k->gather_bwd(ctx, dx(), dy, idx);
  });
}

Var columns(const Var& x, int64_t lo, int64_t hi) {
  return x.tape->window(x, [lo, hi](const Tensor& t) { return t.columns(lo, hi); });
}

Var reshape(const Var& x, Shape shape) {
  return x.tape->window(x, [shape = std::move(shape)](const Tensor& t) { return t.view(shape); });
}

}  // namespace sutor
