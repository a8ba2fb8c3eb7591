// RMSNorm: y = x rstd w, rstd = 1/sqrt(mean(x^2) + eps); dx += rstd w dy - c x, c = rstd^3 mean(w
// dy x); dw += sum_t dy x rstd. Sums over a row and over the rows run in f64; dw in columns, each
// over all rows in order: the thread count changes no bit. Specification: engine/ref/norm.h; test:
// tests/kernels/norm.cpp.
#include <cmath>

#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

Tensor as_f32(const Tensor& w) { return w.dtype == DType::F32 ? w : cast(w, DType::F32); }

}  // namespace

void norm_fwd(Ctx&, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps) {
  int64_t H = x.cols();
  check(w.numel() == H && y.cols() == H, "norm: x has {} columns, w {}, y {}", H, w.numel(),
        y.cols());
  const RowKernels& k = row_kernels();
  Tensor wf = as_f32(w);
  const float* g = wf.f32();
  by_rows(x.rows(), H, [&](int64_t t) {
    const float* xr = x.row(t);
    float r = static_cast<float>(1.0 / std::sqrt(k.dot(xr, xr, H) / static_cast<double>(H) + eps));
    if (rstd) rstd.f32()[t] = r;
    k.norm(y.row(t), xr, g, r, H);
  });
}

void norm_bwd(Ctx&, Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd) {
  int64_t H = x.cols(), T = x.rows();
  const RowKernels& k = row_kernels();
  Tensor wf = as_f32(w);
  const float *g = wf.f32(), *rs = rstd.f32();
  if (dx)
    by_rows(T, H, [&](int64_t t) {
      const float *xr = x.row(t), *dyr = dy.row(t);
      double mean = k.dot3(g, dyr, xr, H) / static_cast<double>(H), r = rs[t];
      k.norm_grad(dx.row(t), dyr, xr, g, rs[t], static_cast<float>(mean * r * r * r), H);
    });
  if (!dw) return;
  constexpr int64_t kTile = 64;
  float* out = dw.f32();
  parallel_for((H + kTile - 1) / kTile, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t h = lo * kTile; h < std::min(H, hi * kTile); h += kTile) {
      int64_t n = std::min(kTile, H - h);
      double acc[kTile] = {};
      for (int64_t t = 0; t < T; ++t) k.mac64(acc, dy.row(t) + h, x.row(t) + h, rs[t], n);
      for (int64_t i = 0; i < n; ++i) out[h + i] += static_cast<float>(acc[i]);
    }
  });
}

}  // namespace sutor::cpu
