// A sigmoid gate per row; keeps x where the gate learns. Kernel: engine/cpu/gate.cpp.
#include "engine/ops.h"

namespace sutor {

Var gated(const Var& x, const Var& gate) {
  Ctx& ctx = x.tape->ctx;
  Tensor y = empty({x.value.rows(), x.value.cols()});
  ctx.k->gate_fwd(ctx, y, x.value, gate.value);
  return x.tape->record(
      y, {x.grad, gate.grad},
      [&ctx, x = gate.grad ? x.value : Tensor{}, g = gate.value, dx = x.grad,
       dg = gate.grad](const Tensor& dy) { ctx.k->gate_bwd(ctx, dx(), dg(), dy, x, g); });
}

}  // namespace sutor
