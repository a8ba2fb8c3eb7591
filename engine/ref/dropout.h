#pragma once
// Dropout: y = x / (1 - p) where an element stays, else 0; p is rounded to 1/65536. Element i stays
// when its draw is not below p: sixteen bits of a hash of (seed, i / 4), so one hash of
// engine/random.h serves four elements. The mask is a function of (seed, i): nothing is kept for
// backward. Kernel: engine/cpu/dropout.cpp; test: tests/kernels/dropout.cpp. Source: arXiv
// 1207.0580, scaled in training as torch does.

#include <cstdint>

#include "engine/random.h"

namespace sutor::ref {

// In [0, 65536). Group g of four has the g-th number of the sequence that starts at `seed`.
inline uint32_t dropout_draw(uint64_t seed, int64_t i) {
  auto group = static_cast<uint64_t>(i) / 4;
  return static_cast<uint32_t>(mix(seed + group * 0x9e3779b97f4a7c15u) >> i % 4 * 16 & 0xffff);
}

inline uint32_t dropout_threshold(float p) { return static_cast<uint32_t>(p * 65536.0f + 0.5f); }

// p is a probability, and something stays.
inline bool dropout_leaves(float p) { return p >= 0 && p < 1 && dropout_threshold(p) < 65536; }

// 1 / (1 - p) of the p that is drawn, so that the mean stays.
inline double dropout_scale(float p) { return 65536.0 / (65536 - dropout_threshold(p)); }

// What element i is multiplied with.
inline double dropout_factor(float p, uint64_t seed, int64_t i) {
  if (p == 0) return 1;
  return dropout_draw(seed, i) < dropout_threshold(p) ? 0 : dropout_scale(p);
}

template <class T>
void dropout_fwd(T* y, const T* x, int64_t n, float p, uint64_t seed) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * T(dropout_factor(p, seed, i));
}

template <class T>
void dropout_bwd(T* dx, const T* dy, int64_t n, float p, uint64_t seed) {
  for (int64_t i = 0; i < n; ++i) dx[i] += dy[i] * T(dropout_factor(p, seed, i));
}

}  // namespace sutor::ref
