// Where masks come from: the step's seed (Ctx::dropout) and the place, so that a recomputed block
// draws what it drew before, and no two places share a mask. Kernel: engine/cpu/dropout.cpp.
#include "engine/ops/dropout.h"

#include "engine/name_hash.h"
#include "engine/random.h"
#include "engine/ref/dropout.h"

namespace sutor {

Dropout dropout_at(const Ctx& ctx, float p, std::string_view place) {
  check(ref::dropout_leaves(p), "dropout at {}: {} is no probability or leaves nothing", place, p);
  if (p == 0 || ctx.dropout == 0) return {};
  return {p, mix(name_hash(ctx.dropout, place))};
}

Tensor dropped(Ctx& ctx, const Tensor& x, const Dropout& drop) {
  if (drop.p == 0) return x;
  Tensor y = empty(x.shape);
  ctx.k->dropout_fwd(ctx, y, x, drop);
  return y;
}

}  // namespace sutor
