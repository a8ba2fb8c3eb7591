#pragma once
// The adapters of a PESC layer (arXiv 2401.02731, eq. 4-7; x is the output of the layer's MLP):
// y[t] = x[t] + scale sum_k weight[t,k] Up_e gelu(l), l = Down_e drop(x[t]), e = expert[t,k]. l is
// returned by pair (t*K + k). gelu(x) = x P(N < x), the erf form. Backward: z = Up_e^T dy[t];
// dweight = scale <z, gelu(l)>; dl = scale weight z gelu'(l); dx += dy + drop(Down_e^T dl),
// dDown_e += dl drop(x)^T, dUp_e += scale weight dy gelu(l)^T. Adapters whose gradient pointer is
// null are frozen. Mask: engine/ref/dropout.h, element (t*K + k) * H + h. Kernel:
// engine/cpu/adapter.cpp; test: tests/kernels/adapter.cpp.

#include <cmath>
#include <complex>
#include <cstdint>
#include <numbers>
#include <vector>

#include "engine/ref/dropout.h"

namespace sutor::ref {

// erf z = 2/sqrt(pi) e^(-z^2) sum_n 2^n z^(2n+1) / (1 3 5 ... (2n+1)): every term has z's sign, so
// nothing cancels; past 6 it is 1 to the last bit of a double. Also of complex z near the real
// axis.
template <class T>
T erf_series(T z) {
  using std::abs, std::exp, std::real;
  if (abs(z) > 6) return T(real(z) > 0 ? 1 : -1);
  T term = z, sum = z;
  for (int n = 1; abs(term) > 1e-18 * abs(sum); ++n) sum += term *= T(2) * z * z / T(2 * n + 1);
  return T(2 * std::numbers::inv_sqrtpi) * exp(-z * z) * sum;
}

template <class T>
T normal_below(T x) {  // P(N < x)
  return (T(1) + erf_series(x / T(std::numbers::sqrt2))) / T(2);
}

template <class T>
T gelu(T x) {
  return x * normal_below(x);
}

template <class T>
T gelu_slope(T x) {
  using std::exp;
  T density = exp(-x * x / T(2)) * T(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  return normal_below(x) + x * density;
}

template <class T>
struct Adapters {  // [E] pointers to [A,H], [H,A]
  std::vector<T*> down, up;
};

template <class T>
void adapter_fwd(T* y, T* low, const T* x, const T* weight, const int32_t* expert,
                 const Adapters<T>& w, int64_t tokens, int64_t hidden, int64_t width, int64_t top_k,
                 double scale, float p, uint64_t seed) {
  std::vector<T> a(width);
  for (int64_t i = 0; i < tokens * hidden; ++i) y[i] = x[i];
  for (int64_t pair = 0; pair < tokens * top_k; ++pair) {
    int64_t t = pair / top_k;
    const T *down = w.down[expert[pair]], *up = w.up[expert[pair]];
    for (int64_t i = 0; i < width; ++i) {
      T l = 0;
      for (int64_t h = 0; h < hidden; ++h)
        l += down[i * hidden + h] * x[t * hidden + h] *
             T(dropout_factor(p, seed, pair * hidden + h));
      if (low) low[pair * width + i] = l;
      a[i] = gelu(l);
    }
    for (int64_t h = 0; h < hidden; ++h) {
      T s = 0;
      for (int64_t i = 0; i < width; ++i) s += up[h * width + i] * a[i];
      y[t * hidden + h] += T(scale) * weight[pair] * s;
    }
  }
}

template <class T>
void adapter_bwd(T* dx, T* dweight, const Adapters<T>* dw, const T* dy, const T* x, const T* weight,
                 const T* low, const int32_t* expert, const Adapters<T>& w, int64_t tokens,
                 int64_t hidden, int64_t width, int64_t top_k, double scale, float p,
                 uint64_t seed) {
  for (int64_t i = 0; dx && i < tokens * hidden; ++i) dx[i] += dy[i];
  for (int64_t pair = 0; pair < tokens * top_k; ++pair) {
    int64_t t = pair / top_k;
    int32_t e = expert[pair];
    T* ddown = dw ? dw->down[e] : nullptr;
    T* dup = dw ? dw->up[e] : nullptr;
    for (int64_t i = 0; i < width; ++i) {
      T l = low[pair * width + i], a = gelu(l), z = 0;
      for (int64_t h = 0; h < hidden; ++h) z += w.up[e][h * width + i] * dy[t * hidden + h];
      if (dweight) dweight[pair] += T(scale) * z * a;
      T share = T(scale) * weight[pair], dl = share * z * gelu_slope(l);
      for (int64_t h = 0; h < hidden; ++h) {
        T keep = T(dropout_factor(p, seed, pair * hidden + h));
        if (dx) dx[t * hidden + h] += w.down[e][i * hidden + h] * dl * keep;
        if (ddown) ddown[i * hidden + h] += dl * x[t * hidden + h] * keep;
        if (dup) dup[h * width + i] += share * dy[t * hidden + h] * a;
      }
    }
  }
}

}  // namespace sutor::ref
