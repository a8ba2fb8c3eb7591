#pragma once
// moe_ffn: y[t] = sum_k weight[t,k] * W2_e a, a = silu(g) * u, g = W1_e x[t], u = W3_e x[t], e =
// expert[t,k]. g and u are returned by pair (t*K + k). Backward: z = W2_e^T dy[t]; dweight = <z,
// a>; da = weight z; then SwiGLU's derivative, dx += W1^T dg + W3^T du, dW1 += dg x^T, dW3 += du
// x^T, dW2 += weight dy a^T. Experts whose gradient pointer is null are frozen. Kernels:
// engine/cpu/moe_ffn.cpp, moe_ffn_bwd.cpp; test: tests/kernels/moe_ffn.cpp.

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace sutor::ref {

template <class T>
struct Experts {  // [E] pointers to [I,H], [I,H], [H,I]
  std::vector<T*> gate, up, down;
};

template <class T>
void moe_ffn_fwd(T* y, T* gate, T* up, const T* x, const T* weight, const int32_t* expert,
                 const Experts<T>& w, int64_t tokens, int64_t hidden, int64_t inter,
                 int64_t top_k) {
  using std::exp;
  std::vector<T> a(inter);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < hidden; ++h) y[t * hidden + h] = 0;
    for (int64_t p = t * top_k; p < (t + 1) * top_k; ++p) {
      int32_t e = expert[p];
      for (int64_t i = 0; i < inter; ++i) {
        T g = 0, u = 0;
        for (int64_t h = 0; h < hidden; ++h) {
          g += w.gate[e][i * hidden + h] * x[t * hidden + h];
          u += w.up[e][i * hidden + h] * x[t * hidden + h];
        }
        if (gate) gate[p * inter + i] = g;
        if (up) up[p * inter + i] = u;
        a[i] = g / (T(1) + exp(-g)) * u;
      }
      for (int64_t h = 0; h < hidden; ++h) {
        T s = 0;
        for (int64_t i = 0; i < inter; ++i) s += w.down[e][h * inter + i] * a[i];
        y[t * hidden + h] += weight[p] * s;
      }
    }
  }
}

template <class T>
void moe_ffn_bwd(T* dx, T* dweight, const Experts<T>* dw, const T* dy, const T* x, const T* weight,
                 const T* gate, const T* up, const int32_t* expert, const Experts<T>& w,
                 int64_t tokens, int64_t hidden, int64_t inter, int64_t top_k) {
  using std::exp;
  for (int64_t p = 0; p < tokens * top_k; ++p) {
    int64_t t = p / top_k;
    int32_t e = expert[p];
    T* dw1 = dw ? dw->gate[e] : nullptr;
    T* dw3 = dw ? dw->up[e] : nullptr;
    T* dw2 = dw ? dw->down[e] : nullptr;
    for (int64_t i = 0; i < inter; ++i) {
      T g = gate[p * inter + i], u = up[p * inter + i], s = T(1) / (T(1) + exp(-g)), a = g * s * u,
        z = 0;
      for (int64_t h = 0; h < hidden; ++h) z += w.down[e][h * inter + i] * dy[t * hidden + h];
      if (dweight) dweight[p] += z * a;
      T da = weight[p] * z, du = da * g * s, dg = da * u * s * (T(1) + g * (T(1) - s));
      for (int64_t h = 0; h < hidden; ++h) {
        if (dx) dx[t * hidden + h] += w.gate[e][i * hidden + h] * dg + w.up[e][i * hidden + h] * du;
        if (dw1) dw1[i * hidden + h] += dg * x[t * hidden + h];
        if (dw3) dw3[i * hidden + h] += du * x[t * hidden + h];
        if (dw2) dw2[h * inter + i] += weight[p] * dy[t * hidden + h] * a;
      }
    }
  }
}

}  // namespace sutor::ref
