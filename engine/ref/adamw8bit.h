#pragma once
// AdamW whose moments are stored in 8 bits (arXiv 2110.02861; bitsandbytes' AdamW8bit): blocks of
// 256 elements, each its largest magnitude ("scale") and a code per element, value = map[code] *
// scale; m by the signed dynamic map, v by the unsigned one (engine/ref/quant.h). A step widens
// both, is AdamW (engine/ref/optim.h), so the weights move by moments that are not rounded yet, and
// stores them again: the nearest code, ties down; a block of zeros has scale 0. Kernel:
// engine/cpu/adamw8bit.cpp; test: tests/kernels/adamw8bit.cpp.

#include <algorithm>
#include <vector>

#include "engine/ref/optim.h"
#include "engine/ref/quant.h"

namespace sutor::ref {

inline constexpr int64_t kMomentBlock = 256;

// Codes of the values of a block; returns its scale.
template <class T>
T store_moments(uint8_t* code, const T* x, int64_t n, const float (&map)[256]) {
  T scale = 0;
  for (int64_t i = 0; i < n; ++i) scale = std::max(scale, std::abs(x[i]));
  for (int64_t i = 0; i < n; ++i) {
    T s = scale == T(0) ? T(0) : x[i] / scale;
    int c = 0;
    while (c < 255 && s > (T(map[c]) + T(map[c + 1])) / T(2)) ++c;
    code[i] = static_cast<uint8_t>(c);
  }
  return scale;
}

template <class T>
void adamw8bit_step(T* w, uint8_t* m, uint8_t* v, T* m_scale, T* v_scale, const T* grad, int64_t n,
                    const AdamW<T>& s) {
  float of_m[256], of_v[256];
  dynamic_map(of_m, true);
  dynamic_map(of_v, false);
  for (int64_t lo = 0; lo < n; lo += kMomentBlock) {
    int64_t count = std::min(kMomentBlock, n - lo), b = lo / kMomentBlock;
    std::vector<T> wide_m(count), wide_v(count);
    for (int64_t i = 0; i < count; ++i) {
      wide_m[i] = T(of_m[m[lo + i]]) * m_scale[b];
      wide_v[i] = T(of_v[v[lo + i]]) * v_scale[b];
    }
    adamw_step(w + lo, wide_m.data(), wide_v.data(), grad + lo, count, s);
    m_scale[b] = store_moments(m + lo, wide_m.data(), count, of_m);
    v_scale[b] = store_moments(v + lo, wide_v.data(), count, of_v);
  }
}

}  // namespace sutor::ref
