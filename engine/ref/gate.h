#pragma once
// y[t,h] = x[t,h] sigmoid(g[t]): one gate for a whole row, as Qwen2-MoE's shared expert has it
// (modeling_qwen2_moe.py). Kernel: engine/cpu/gate.cpp; test: tests/kernels/gate.cpp.

#include <cmath>
#include <complex>
#include <cstdint>

namespace sutor::ref {

template <class T>
void gate_fwd(T* y, const T* x, const T* g, int64_t rows, int64_t cols) {
  using std::exp;
  for (int64_t i = 0; i < rows * cols; ++i) y[i] = x[i] / (T(1) + exp(-g[i / cols]));
}

// dx = dy s, dg = <dy, x> s (1 - s), s = sigmoid(g)
template <class T>
void gate_bwd(T* dx, T* dg, const T* dy, const T* x, const T* g, int64_t rows, int64_t cols) {
  using std::exp;
  for (int64_t i = 0; i < rows * cols; ++i) {
    T s = T(1) / (T(1) + exp(-g[i / cols]));
    if (dx) dx[i] += dy[i] * s;
    if (dg) dg[i / cols] += dy[i] * x[i] * s * (T(1) - s);
  }
}

}  // namespace sutor::ref
