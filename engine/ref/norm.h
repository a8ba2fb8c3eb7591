#pragma once
// RMSNorm: y[t,h] = x[t,h] r[t] w[h], r = 1/sqrt(mean_h x^2 + eps). With g = w dy:
// dx += r (g - x r^2 mean_h(g x)), dw[h] += sum_t dy x r. Source: arXiv 1910.07467; LlamaRMSNorm in
// float32. The specification: loops over any scalar type (double, std::complex<double> for
// complex-step gradients). Null = absent. Kernel: engine/cpu/norm.cpp; test:
// tests/kernels/norm.cpp.

#include <cmath>
#include <complex>
#include <cstdint>

namespace sutor::ref {

template <class T>
void norm_fwd(T* y, T* rstd, const T* x, const T* w, int64_t tokens, int64_t hidden, double eps) {
  using std::sqrt;
  for (int64_t t = 0; t < tokens; ++t) {
    T sum = 0;
    for (int64_t h = 0; h < hidden; ++h) sum += x[t * hidden + h] * x[t * hidden + h];
    T r = T(1) / sqrt(sum / T(double(hidden)) + T(eps));
    if (rstd) rstd[t] = r;
    for (int64_t h = 0; h < hidden; ++h) y[t * hidden + h] = x[t * hidden + h] * r * w[h];
  }
}

template <class T>
void norm_bwd(T* dx, T* dw, const T* dy, const T* x, const T* w, const T* rstd, int64_t tokens,
              int64_t hidden) {
  for (int64_t t = 0; t < tokens; ++t) {
    const T *xr = x + t * hidden, *d = dy + t * hidden;
    T r = rstd[t], dot = 0;
    for (int64_t h = 0; h < hidden; ++h) dot += w[h] * d[h] * xr[h];
    T mean = dot / T(double(hidden));
    for (int64_t h = 0; dx && h < hidden; ++h)
      dx[t * hidden + h] += r * (w[h] * d[h] - xr[h] * r * r * mean);
    for (int64_t h = 0; dw && h < hidden; ++h) dw[h] += d[h] * xr[h] * r;
  }
}

}  // namespace sutor::ref
