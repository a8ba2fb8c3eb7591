// dropout: y = x / (1 - p) where the element stays, else 0; backward the same on dy, added. The
// mask is drawn anew from (seed, element) in both, 256 elements at a time
// (engine/cpu/isa/rows.h). Specification: engine/ref/dropout.h; test: tests/kernels/dropout.cpp.
#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

void masked(const Tensor& y, const Tensor& x, const Dropout& drop, bool add) {
  check(y.rows() == x.rows() && y.cols() == x.cols(), "dropout: {} from {}", to_string(y.shape),
        to_string(x.shape));
  const RowKernels& k = row_kernels();
  const DropoutConstants c = dropout_constants(drop);
  int64_t cols = x.cols(), n = x.numel();
  if (y.contiguous() && x.contiguous()) {
    constexpr int64_t kPiece = 1 << 12;
    by_rows((n + kPiece - 1) / kPiece, kPiece, [&](int64_t r) {
      int64_t at = r * kPiece;
      k.dropout(y.f32() + at, x.f32() + at, c, at, std::min(kPiece, n - at), add);
    });
    return;
  }
  by_rows(x.rows(), cols,
          [&](int64_t t) { k.dropout(y.row(t), x.row(t), c, t * cols, cols, add); });
}

}  // namespace

void dropout_fwd(Ctx&, Tensor y, Tensor x, Dropout drop) { masked(y, x, drop, false); }

void dropout_bwd(Ctx&, Tensor dx, Tensor dy, Dropout drop) {
  if (dx) masked(dx, dy, drop, true);
}

}  // namespace sutor::cpu
