// Where masks come from: the step's seed (Ctx::dropout) and the place, so that a recomputed block
// draws what it drew before, and no two places share a mask. Kernel: engine/cpu/dropout.cpp.
#include "engine/ops.h"
#include "engine/random.h"
#include "engine/ref/dropout.h"

namespace sutor {

Dropout dropout_at(const Ctx& ctx, float p, std::string_view place) {
  check(ref::dropout_leaves(p), "dropout at {}: {} is no probability or leaves nothing", place, p);
  if (p == 0 || ctx.dropout == 0) return {};
  uint64_t state = ctx.dropout ^ 0xcbf29ce484222325u;  // FNV-1a over the name, then splitmix64
  for (unsigned char ch : place) state = (state ^ ch) * 0x100000001b3u;
  return {p, mix(state)};
}

}  // namespace sutor
