#pragma once
// Quantised weights, block by block: what the bytes of a block mean. GGUF's types as ggml defines
// them (ggml-quants.c: dequantize_row_*), float32 products and sums in its order; NF4 with double
// quantisation as bitsandbytes defines it (csrc/cpu_ops.cpp, functional.py).

#include <cmath>
#include <cstdint>
#include <cstring>

namespace sutor::ref {

[[gnu::always_inline]] inline float half_at(const uint8_t* p) {
  _Float16 half;
  std::memcpy(&half, p, 2);
  return static_cast<float>(half);
}

// Each type: `kElements` weights in `kBytes` bytes; unpack(bytes, y) gives the weights.
struct Q4_0 {  // d f16, 16 bytes: low nibbles, then high ones; d (q - 8)
  static constexpr int kElements = 32, kBytes = 18;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    float d = half_at(b);
#pragma GCC unroll 1  // or gcc misses the vectors
    for (int j = 0; j < 16; ++j) y[j] = static_cast<float>((b[2 + j] & 15) - 8) * d;
#pragma GCC unroll 1  // or gcc misses the vectors
    for (int j = 0; j < 16; ++j) y[j + 16] = static_cast<float>((b[2 + j] >> 4) - 8) * d;
  }
};

struct Q4_1 {  // d, m f16; d q + m
  static constexpr int kElements = 32, kBytes = 20;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    float d = half_at(b), m = half_at(b + 2);
#pragma GCC unroll 1  // or gcc misses the vectors
    for (int j = 0; j < 16; ++j) y[j] = static_cast<float>(b[4 + j] & 15) * d + m;
#pragma GCC unroll 1  // or gcc misses the vectors
    for (int j = 0; j < 16; ++j) y[j + 16] = static_cast<float>(b[4 + j] >> 4) * d + m;
  }
};

struct Q5_0 {  // d f16, 32 fifth bits, 16 bytes of nibbles; d (q - 16)
  static constexpr int kElements = 32, kBytes = 22;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    float d = half_at(b);
    uint32_t high;
    std::memcpy(&high, b + 2, 4);
    for (int j = 0; j < 16; ++j) {
      int h0 = static_cast<int>(high >> j & 1) << 4, h1 = static_cast<int>(high >> (j + 16) & 1)
                                                          << 4;
      y[j] = static_cast<float>(((b[6 + j] & 15) | h0) - 16) * d;
      y[j + 16] = static_cast<float>(((b[6 + j] >> 4) | h1) - 16) * d;
    }
  }
};

struct Q5_1 {  // d, m f16, fifth bits, nibbles; d q + m
  static constexpr int kElements = 32, kBytes = 24;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high;
    std::memcpy(&high, b + 4, 4);
    for (int j = 0; j < 16; ++j) {
      int h0 = static_cast<int>(high >> j & 1) << 4, h1 = static_cast<int>(high >> (j + 16) & 1)
                                                          << 4;
      y[j] = static_cast<float>((b[8 + j] & 15) | h0) * d + m;
      y[j + 16] = static_cast<float>((b[8 + j] >> 4) | h1) * d + m;
    }
  }
};

struct Q8_0 {  // d f16, 32 signed bytes; d q
  static constexpr int kElements = 32, kBytes = 34;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    float d = half_at(b);
    const auto* q = reinterpret_cast<const int8_t*>(b + 2);
    for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(q[j]) * d;
  }
};

// The six-bit scale and minimum of sub-block j, packed into 12 bytes.
[[gnu::always_inline]] inline void scale_min(const uint8_t* s, int j, int& scale, int& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

struct Q4_K {  // d, dmin f16, 8 scales and minima, 128 bytes of nibbles; d s q - dmin m
  static constexpr int kElements = 256, kBytes = 144;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    float d = half_at(b), dmin = half_at(b + 2);
    const uint8_t *s = b + 4, *q = b + 16;
    for (int part = 0; part < 4; ++part, q += 32, y += 64) {
      int s1, m1, s2, m2;
      scale_min(s, 2 * part, s1, m1);
      scale_min(s, 2 * part + 1, s2, m2);
      float d1 = d * static_cast<float>(s1), o1 = dmin * static_cast<float>(m1),
            d2 = d * static_cast<float>(s2), o2 = dmin * static_cast<float>(m2);
      for (int l = 0; l < 32; ++l) y[l] = d1 * static_cast<float>(q[l] & 15) - o1;
      for (int l = 0; l < 32; ++l) y[l + 32] = d2 * static_cast<float>(q[l] >> 4) - o2;
    }
  }
};

struct Q5_K {  // as Q4_K with 32 bytes of fifth bits before the nibbles
  static constexpr int kElements = 256, kBytes = 176;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    float d = half_at(b), dmin = half_at(b + 2);
    const uint8_t *s = b + 4, *h = b + 16, *q = b + 48;
    for (int part = 0; part < 4; ++part, q += 32, y += 64) {
      int s1, m1, s2, m2;
      scale_min(s, 2 * part, s1, m1);
      scale_min(s, 2 * part + 1, s2, m2);
      float d1 = d * static_cast<float>(s1), o1 = dmin * static_cast<float>(m1),
            d2 = d * static_cast<float>(s2), o2 = dmin * static_cast<float>(m2);
      for (int l = 0; l < 32; ++l)
        y[l] = d1 * static_cast<float>((q[l] & 15) | (h[l] >> (2 * part) & 1) << 4) - o1;
      for (int l = 0; l < 32; ++l)
        y[l + 32] = d2 * static_cast<float>((q[l] >> 4) | (h[l] >> (2 * part + 1) & 1) << 4) - o2;
    }
  }
};

struct Q6_K {  // 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d f16; d s (q - 32)
  static constexpr int kElements = 256, kBytes = 210;
  [[gnu::always_inline]] static void unpack(const uint8_t* __restrict b, float* __restrict y) {
    const uint8_t *low = b, *high = b + 128;
    const auto* s = reinterpret_cast<const int8_t*>(b + 192);
    float d = half_at(b + 208);
    for (int part = 0; part < 2; ++part, low += 64, high += 32, s += 8, y += 128)
      for (int k = 0; k < 4; ++k)  // quarter k: nibble k/2 of byte l + 32 (k%2), bits 2k of high
        for (int half = 0; half < 2; ++half) {
          float scale = d * static_cast<float>(s[2 * k + half]);
          for (int l = 16 * half; l < 16 * half + 16; ++l) {
            int q = (low[l + 32 * (k & 1)] >> (k & 2 ? 4 : 0) & 15) | (high[l] >> (2 * k) & 3) << 4;
            y[32 * k + l] = scale * static_cast<float>(q - 32);
          }
        }
  }
};

// NF4: 16 values, quantiles of a normal distribution (arXiv 2305.14314), and the largest x that
// goes to each but the last.
inline constexpr float kNf4[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};
inline constexpr float kNf4Bound[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784178118011f};

inline uint8_t nf4_code(float x) {  // x in [-1, 1]; NaN: 0
  uint8_t code = 0;
  for (float bound : kNf4Bound) code = static_cast<uint8_t>(code + (x > bound));
  return code;
}

// The dynamic 8-bit map of bitsandbytes' create_dynamic_map(signed, 7, 8): for i = 0..6 the means
// of neighbours of linspace(0.1, 1, 2^i + 1), times 10^(i-6), both signs (unsigned: of twice as
// many steps, one sign); 0 and 1. In float32 as torch computes it; ascending.
inline void dynamic_map(float (&map)[256], bool is_signed = true) {
  int n = 0;
  for (int i = 0; i < 7; ++i) {
    int steps = (is_signed ? 1 << i : 2 << i) + 1;
    float step = 0.9f / static_cast<float>(steps - 1), edge[129];
    // torch.linspace: from the start in the first half, from the end in the second; fused.
    for (int k = 0; k < steps; ++k)
      edge[k] = k < steps / 2 ? std::fma(step, static_cast<float>(k), 0.1f)
                              : std::fma(-step, static_cast<float>(steps - 1 - k), 1.0f);
    for (int k = 0; k + 1 < steps; ++k) {
      float mean = (edge[k] + edge[k + 1]) / 2.0f,
            v = static_cast<float>(std::pow(10.0, i - 6)) * mean;
      map[n++] = v;
      if (is_signed) map[n++] = -v;
    }
  }
  map[n++] = 0;
  map[n++] = 1;
  for (int i = 1; i < n; ++i)  // insertion sort
    for (int k = i; k > 0 && map[k] < map[k - 1]; --k) {
      float t = map[k];
      map[k] = map[k - 1], map[k - 1] = t;
    }
}

}  // namespace sutor::ref
