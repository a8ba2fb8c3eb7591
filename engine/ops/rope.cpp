// Rotary position embedding of the last columns of each row; keeps no activation (backward rotates
// by -theta).
#include "engine/ops.h"

namespace sutor {

Var rope_tail(const Var& q, int64_t rope, const RopeAngles& angles, bool interleaved) {
  Ctx& ctx = q.tape->ctx;
  int64_t D = q.value.cols(), P = D - rope;
  Tensor y = empty({q.value.rows(), D});
  if (P > 0) copy_into(y.columns(0, P), q.value.columns(0, P));
  ctx.k->rope_fwd(ctx, y.columns(P, D), q.value.columns(P, D), angles.cos, angles.sin, interleaved);
  return q.tape->record(y, {q.grad},
                        [&ctx, angles, D, P, interleaved, dq = q.grad](const Tensor& dy) {
                          Tensor d = dq();
                          if (P > 0)
                            ctx.k->accumulate(ctx, d.columns(0, P), dy.columns(0, P), 1.0f);
                          ctx.k->rope_bwd(ctx, d.columns(P, D), dy.columns(P, D), angles.cos,
                                          angles.sin, interleaved);
                        });
}

}  // namespace sutor
