// RMSNorm: y = x / sqrt(mean(x^2) + eps) * w. Keeps x and rstd[T]. Kernel: engine/cpu/norm.cpp.
#include "engine/ops.h"

namespace sutor {

Var rms_norm(const Var& x, const Param& w, float eps) {
  check(x.value.cols() == w.value.numel(), "rms_norm {}: x has {} columns, the weight {}", w.name,
        x.value.cols(), w.value.numel());
  Tape& tape = *x.tape;
  Ctx& ctx = tape.ctx;
  Tensor y = empty({x.value.rows(), x.value.cols()}), rstd = empty({x.value.rows()});
  Var wv = tape.param(w);
  ctx.k->norm_fwd(ctx, y, rstd, x.value, wv.value, eps);
  return tape.record(y, {x.grad, wv.grad},
                     [&ctx, x = x.value, w = wv.value, rstd, dx = x.grad, dw = wv.grad](
                         const Tensor& dy) { ctx.k->norm_bwd(ctx, dx(), dw(), dy, x, w, rstd); });
}

}  // namespace sutor
