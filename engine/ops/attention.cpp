// Causal attention inside documents, and MLA's key (per-head part beside the shared rotary part).
// Backward recomputes the probabilities from lse. Kernels: engine/cpu/attention.cpp,
// engine/cpu/pointwise.cpp.
#include "engine/ops.h"

namespace sutor {

Var mla_key(const Var& nope, const Var& pe, int heads) {
  Ctx& ctx = nope.tape->ctx;
  Tensor k = empty({nope.value.rows(), nope.value.cols() + pe.value.cols()});
  ctx.k->mla_key_fwd(ctx, k, nope.value, pe.value, heads);
  return nope.tape->record(k, {nope.grad, pe.grad},
                           [&ctx, heads, dn = nope.grad, dp = pe.grad](const Tensor& dk) {
                             ctx.k->mla_key_bwd(ctx, dn(), dp(), dk, heads);
                           });
}

Var attention(const Var& q, const Var& k, const Var& v, const Tensor& start, int heads,
              int kv_heads, float scale) {
  Ctx& ctx = q.tape->ctx;
  Tensor o = empty({q.value.rows(), v.value.cols()}), lse = empty({q.value.rows()});
  ctx.k->attention_fwd(ctx, o, lse, q.value, k.value, v.value, start, heads, kv_heads, scale);
  return q.tape->record(o, {q.grad, k.grad, v.grad},
                        [&ctx, o, lse, q = q.value, k = k.value, v = v.value, start, heads,
                         kv_heads, scale, dq = q.grad, dk = k.grad, dv = v.grad](const Tensor& dy) {
                          ctx.k->attention_bwd(ctx, dq(), dk(), dv(), dy, o, lse, q, k, v, start,
                                               heads, kv_heads, scale);
                        });
}

}  // namespace sutor
