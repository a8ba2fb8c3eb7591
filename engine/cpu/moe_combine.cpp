// moe_combine: what tokens get back from experts that other ranks hold. The same sums as moe_ffn
// ends with (engine/cpu/moe_plan.h). Specification: engine/ref/moe_combine.h; test:
// tests/kernels/moe_combine.cpp.
#include "engine/cpu/moe_plan.h"

namespace sutor::cpu {

void moe_combine_fwd(Ctx& ctx, Tensor y, Tensor rows, Tensor weight, Tensor where, bool add) {
  const MicroKernels& mk = micro_kernels(ctx.compute);
  const int64_t top_k = where.cols(), hidden = y.cols();
  check(
      where.rows() == y.rows() && rows.cols() == hidden && (!weight || weight.shape == where.shape),
      "moe_combine: y {}, rows {}, weight {}, where {}", to_string(y.shape), to_string(rows.shape),
      to_string(weight.shape), to_string(where.shape));
  combine_rows(mk, y, rows, weight, where.i32(), top_k, add);
}

}  // namespace sutor::cpu
