// Values limited to [-limit, limit]; keeps x. Kernel: engine/cpu/clamp.cpp.
#include "engine/ops.h"

namespace sutor {

Var clamped(const Var& x, float limit) {
  Ctx& ctx = x.tape->ctx;
  Tensor y = empty(x.value.shape);
  ctx.k->clamp_fwd(ctx, y, x.value, limit);
  return x.tape->record(y, {x.grad}, [&ctx, limit, x = x.value, dx = x.grad](const Tensor& dy) {
    ctx.k->clamp_bwd(ctx, dx(), dy, x, limit);
  });
}

}  // namespace sutor
