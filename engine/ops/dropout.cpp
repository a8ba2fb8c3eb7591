// Where masks come from: the step's seed (Ctx::dropout) and the place, so that a recomputed block
// draws what it drew before, and no two places share a mask. Kernel: engine/cpu/dropout.cpp.
#include "engine/ref/dropout.h"
#include "engine/name_hash.h"
#include "engine/ops.h"
#include "engine/random.h"

namespace sutor {

Dropout dropout_at(const Ctx& ctx, float p, std::string_view place) {
  check(ref::dropout_leaves(p), "dropout at {}: {} is no probability or leaves nothing", place, p);
  if (p == 0 || ctx.dropout == 0) return {};
  return {p, mix(name_hash(ctx.dropout, place))};
}

}  // namespace sutor
