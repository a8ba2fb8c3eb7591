#pragma once
// SwiGLU (silu(g) u, silu(g) = g / (1 + e^-g)), embedding and row gathers with their transposes,
// MLA's key [nope(t,n) | pe(t)].
// `_fwd` overwrites, `_bwd` accumulates; null = absent. Sources: arXiv 2002.05202 (SwiGLU), arXiv
// 2405.04434 eq. 9-18 (MLA). Kernel: engine/cpu/pointwise.cpp; test: tests/kernels/pointwise.cpp.

#include <cmath>
#include <complex>
#include <cstdint>

namespace sutor::ref {

template <class T>
void swiglu_fwd(T* y, const T* gate, const T* up, int64_t n) {
  using std::exp;
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (T(1) + exp(-gate[i])) * up[i];
}

// d silu/dg = s (1 + g (1 - s)), s = sigmoid(g)
template <class T>
void swiglu_bwd(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {
  using std::exp;
  for (int64_t i = 0; i < n; ++i) {
    T s = T(1) / (T(1) + exp(-gate[i]));
    if (dgate) dgate[i] += dy[i] * up[i] * s * (T(1) + gate[i] * (T(1) - s));
    if (dup) dup[i] += dy[i] * gate[i] * s;
  }
}

// y[n] = x[idx[n]], a zero row where idx < 0; embedding is the same with every id >= 0.
template <class T>
void gather_fwd(T* y, const T* x, const int32_t* idx, int64_t rows, int64_t cols) {
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t h = 0; h < cols; ++h) y[n * cols + h] = idx[n] < 0 ? T(0) : x[idx[n] * cols + h];
}

template <class T>
void gather_bwd(T* dx, const T* dy, const int32_t* idx, int64_t rows, int64_t cols) {
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t h = 0; idx[n] >= 0 && h < cols; ++h) dx[idx[n] * cols + h] += dy[n * cols + h];
}

template <class T>
void mla_key_fwd(T* k, const T* nope, const T* pe, int64_t rows, int64_t heads, int64_t p,
                 int64_t r) {
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t i = 0; i < p + r; ++i)
      k[n * (p + r) + i] = i < p ? nope[n * p + i] : pe[n / heads * r + i - p];
}

template <class T>
void mla_key_bwd(T* dnope, T* dpe, const T* dk, int64_t rows, int64_t heads, int64_t p, int64_t r) {
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t i = 0; i < p + r; ++i)
      if (i < p) {
        if (dnope) dnope[n * p + i] += dk[n * (p + r) + i];
      } else if (dpe) {
        dpe[n / heads * r + i - p] += dk[n * (p + r) + i];
      }
}

}  // namespace sutor::ref
