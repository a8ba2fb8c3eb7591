// RoPE: rotation of the pairs (a, b) of a row: a' = a cos - b sin, b' = b cos + a sin; backward
// rotates by -theta. interleaved: pair i of x is (2i, 2i+1), of y (i, i + D/2), as DeepSeek's
// reference reorders before it rotates. y must not be x. Specification: engine/ref/rope.h; test:
// tests/kernels/rope.cpp.
#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

// Heads per token.
int64_t heads_of(const Tensor& x, const Tensor& cos) {
  check(x.cols() == 2 * cos.cols() && cos.rows() > 0 && x.rows() % cos.rows() == 0,
        "rope: x {} with cos {}", to_string(x.shape), to_string(cos.shape));
  return x.rows() / cos.rows();
}

}  // namespace

void rope_fwd(Ctx&, Tensor y, Tensor x, Tensor cos, Tensor sin, bool interleaved) {
  if (x.rows() == 0) return;
  int64_t D = x.cols(), N = heads_of(x, cos);
  const RowKernels& k = row_kernels();
  by_rows(x.rows(), D, [&](int64_t r) {
    k.rope(y.row(r), x.row(r), cos.row(r / N), sin.row(r / N), D / 2, interleaved);
  });
}

void rope_bwd(Ctx&, Tensor dx, Tensor dy, Tensor cos, Tensor sin, bool interleaved) {
  if (!dx || dy.rows() == 0) return;
  int64_t D = dy.cols(), N = heads_of(dy, cos);
  const RowKernels& k = row_kernels();
  by_rows(dy.rows(), D, [&](int64_t r) {
    k.rope_grad(dx.row(r), dy.row(r), cos.row(r / N), sin.row(r / N), D / 2, interleaved);
  });
}

}  // namespace sutor::cpu
