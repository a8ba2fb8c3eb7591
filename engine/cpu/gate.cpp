// A sigmoid gate per row: y[t,:] = x[t,:] sigmoid(g[t]); dx += dy s, dg += <dy, x> s (1 - s).
// Specification: engine/ref/gate.h; test: tests/kernels/gate.cpp.
#include <cstring>

#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

float sigmoid(const RowKernels& k, const Tensor& g, int64_t t) {
  float s;
  k.sigmoid(&s, g.row(t), 1);
  return s;
}

void check_shapes(const Tensor& x, const Tensor& g) {
  check(g.cols() == 1 && g.rows() == x.rows(), "gate: x {}, one gate per row expected, not {}",
        to_string(x.shape), to_string(g.shape));
}

}  // namespace

void gate_fwd(Ctx&, Tensor y, Tensor x, Tensor g) {
  check_shapes(x, g);
  const RowKernels& k = row_kernels();
  by_rows(x.rows(), x.cols(), [&](int64_t t) {
    std::memcpy(y.row(t), x.row(t), x.cols() * sizeof(float));
    k.scale(y.row(t), sigmoid(k, g, t), x.cols());
  });
}

void gate_bwd(Ctx&, Tensor dx, Tensor dg, Tensor dy, Tensor x, Tensor g) {
  check_shapes(x ? x : dy, g);
  const RowKernels& k = row_kernels();
  by_rows(dy.rows(), dy.cols(), [&](int64_t t) {
    float s = sigmoid(k, g, t);
    if (dx) k.axpy(dx.row(t), dy.row(t), s, dy.cols());
    if (dg)
      dg.row(t)[0] += static_cast<float>(k.dot(dy.row(t), x.row(t), dy.cols()) * s * (1.0 - s));
  });
}

}  // namespace sutor::cpu
