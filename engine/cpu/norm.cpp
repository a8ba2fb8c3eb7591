// RMSNorm: y = x rstd w, rstd = 1/sqrt(mean(x^2) + eps); dx = rstd (w dy - x rstd^2 mean(w dy x)), dw = sum_t dy x rstd.
#include <cmath>

#include "engine/backend.h"
#include "engine/parallel.h"

namespace sutor::cpu {
namespace {

Tensor as_f32(const Tensor& w) { return w.dtype == DType::F32 ? w : cast(w, DType::F32); }

}  // namespace

void norm_fwd(Ctx&, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps) {
  int64_t H = x.cols();
  Tensor wf = as_f32(w);
  const float* g = wf.f32();
  parallel_for(x.rows(), 16, [&](int64_t lo, int64_t hi) {
    for (int64_t t = lo; t < hi; ++t) {
      const float* xr = x.row(t);
      double sum = 0;
      for (int64_t h = 0; h < H; ++h) sum += static_cast<double>(xr[h]) * xr[h];
      float r = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(H) + eps));
      if (rstd) rstd.f32()[t] = r;
      float* yr = y.row(t);
      for (int64_t h = 0; h < H; ++h) yr[h] = xr[h] * r * g[h];
    }
  });
}

void norm_bwd(Ctx&, Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd) {
  int64_t H = x.cols(), T = x.rows();
  Tensor wf = as_f32(w);
  const float* g = wf.f32();
  if (dx)
    parallel_for(T, 16, [&](int64_t lo, int64_t hi) {
      for (int64_t t = lo; t < hi; ++t) {
        const float *xr = x.row(t), *dyr = dy.row(t);
        double dot = 0;
        for (int64_t h = 0; h < H; ++h) dot += static_cast<double>(g[h]) * dyr[h] * xr[h];
        float r = rstd.f32()[t], c = static_cast<float>(dot / static_cast<double>(H)) * r * r * r;
        float* d = dx.row(t);
        for (int64_t h = 0; h < H; ++h) d[h] += r * g[h] * dyr[h] - c * xr[h];
      }
    });
  if (dw)
    parallel_for(H, 64, [&](int64_t lo, int64_t hi) {
      for (int64_t t = 0; t < T; ++t) {
        const float *xr = x.row(t), *dyr = dy.row(t);
        float r = rstd.f32()[t];
        for (int64_t h = lo; h < hi; ++h) dw.f32()[h] += dyr[h] * xr[h] * r;
      }
    });
}

}  // namespace sutor::cpu
