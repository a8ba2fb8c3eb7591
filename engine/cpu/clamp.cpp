// y = min(max(x, -limit), limit); dx += dy where |x| <= limit. Specification: engine/ref/clamp.h;
// test: tests/kernels/clamp.cpp.
#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {

void clamp_fwd(Ctx&, Tensor y, Tensor x, float limit) {
  by_rows(x.rows(), x.cols(), [&](int64_t t) {
    float* out = y.row(t);
    const float* in = x.row(t);
    for (int64_t i = 0; i < x.cols(); ++i)
      out[i] = in[i] > limit ? limit : in[i] < -limit ? -limit : in[i];
  });
}

void clamp_bwd(Ctx&, Tensor dx, Tensor dy, Tensor x, float limit) {
  if (!dx) return;
  by_rows(x.rows(), x.cols(), [&](int64_t t) {
    float* d = dx.row(t);
    const float *e = dy.row(t), *in = x.row(t);
    for (int64_t i = 0; i < x.cols(); ++i)
      if (in[i] <= limit && in[i] >= -limit) d[i] += e[i];
  });
}

}  // namespace sutor::cpu
