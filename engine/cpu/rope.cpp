// Rotation of pairs (a, b): a' = a cos - b sin, b' = b cos + a sin; backward rotates by -theta. interleaved: the pair i of x is
// (2i, 2i+1), of y (i, i + D/2), as DeepSeek's reference reorders before rotating.
#include "engine/backend.h"
#include "engine/parallel.h"

namespace sutor::cpu {

void rope_fwd(Ctx&, Tensor y, Tensor x, Tensor cos, Tensor sin, bool interleaved) {
  int64_t half = x.cols() / 2, N = x.rows() / cos.rows();
  parallel_for(x.rows(), 64, [&](int64_t lo, int64_t hi) {
    for (int64_t r = lo; r < hi; ++r) {
      const float *xr = x.row(r), *c = cos.row(r / N), *s = sin.row(r / N);
      float* yr = y.row(r);
      for (int64_t i = 0; i < half; ++i) {
        float a = xr[interleaved ? 2 * i : i], b = xr[interleaved ? 2 * i + 1 : i + half];
        yr[i] = a * c[i] - b * s[i];
        yr[i + half] = b * c[i] + a * s[i];
      }
    }
  });
}

void rope_bwd(Ctx&, Tensor dx, Tensor dy, Tensor cos, Tensor sin, bool interleaved) {
  if (!dx) return;
  int64_t half = dy.cols() / 2, N = dy.rows() / cos.rows();
  parallel_for(dy.rows(), 64, [&](int64_t lo, int64_t hi) {
    for (int64_t r = lo; r < hi; ++r) {
      const float *g = dy.row(r), *c = cos.row(r / N), *s = sin.row(r / N);
      float* d = dx.row(r);
      for (int64_t i = 0; i < half; ++i) {
        d[interleaved ? 2 * i : i] += g[i] * c[i] + g[i + half] * s[i];
        d[interleaved ? 2 * i + 1 : i + half] += g[i + half] * c[i] - g[i] * s[i];
      }
    }
  });
}

}  // namespace sutor::cpu
