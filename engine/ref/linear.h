#pragma once
// linear: y[T,N] = x[T,K] w[N,K]^T + b[N]; backward dx += dy w, dw += dy^T x, db += sum_t dy.
// The specification: loops over any scalar type (double, std::complex<double> for complex-step
// gradients). Null = absent. Kernel: engine/cpu/linear.cpp; test: tests/kernels/linear.cpp.

#include <cstdint>

namespace sutor::ref {

template <class T>
void linear_fwd(T* y, const T* x, const T* w, const T* b, int64_t tokens, int64_t n, int64_t k) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < n; ++i) {
      T s = 0;
      for (int64_t j = 0; j < k; ++j) s += x[t * k + j] * w[i * k + j];
      y[t * n + i] = b ? s + b[i] : s;
    }
}

template <class T>
void linear_bwd(T* dx, T* dw, T* db, const T* dy, const T* x, const T* w, int64_t tokens, int64_t n,
                int64_t k) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < n; ++i) {
      T g = dy[t * n + i];
      for (int64_t j = 0; dx && j < k; ++j) dx[t * k + j] += g * w[i * k + j];
      for (int64_t j = 0; dw && j < k; ++j) dw[i * k + j] += g * x[t * k + j];
      if (db) db[i] += g;
    }
}

}  // namespace sutor::ref
