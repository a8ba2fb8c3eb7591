#pragma once
// y = min(max(x, -limit), limit); the gradient passes where |x| <= limit (OLMoE's clip_qkv, as
// torch's clamp). Kernel: engine/cpu/clamp.cpp; test: tests/kernels/clamp.cpp.

#include <algorithm>
#include <complex>
#include <cstdint>

namespace sutor::ref {

template <class T>
void clamp_fwd(T* y, const T* x, double limit, int64_t n) {
  using std::real;
  for (int64_t i = 0; i < n; ++i)
    y[i] = real(x[i]) > limit ? T(limit) : real(x[i]) < -limit ? T(-limit) : x[i];
}

template <class T>
void clamp_bwd(T* dx, const T* dy, const T* x, double limit, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (x[i] <= limit && x[i] >= -limit) dx[i] += dy[i];
}

}  // namespace sutor::ref
