#pragma once
// Dot products of f32 vectors with rows of quantised blocks, for decoding: codes become floats in
// registers, and a block's scale (and minimum) is applied to its sum, not to each weight: with
// w = d q + m, sum w x = d sum q x + m sum x. So a weight costs a conversion and a multiply-add,
// and is not rounded. Included by quant.h under its rules.

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "engine/ref/quant.h"

// Vectors wider than the portable file's registers are passed to inlined functions alone.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace sutor::cpu {
namespace {

using Floats = float __attribute__((vector_size(32)));
using LooseFloats = float __attribute__((vector_size(32), aligned(4), may_alias));

[[gnu::always_inline]] inline Floats floats_at(const float* x) {
  return *reinterpret_cast<const LooseFloats*>(x);
}

// Any format: unpacked to a buffer.
template <class B>
struct BlockDot {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    alignas(32) float w[B::kElements];
    B::unpack(b, w);
    Floats sum[2] = {};
    for (int i = 0; i < B::kElements; i += 16) {
      sum[0] += floats_at(w + i) * floats_at(x + i);
      sum[1] += floats_at(w + i + 8) * floats_at(x + i + 8);
    }
    return sum[0] + sum[1];
  }
};

#ifdef __AVX2__

// sum of q x over 16 signed bytes, added to `to` lane by lane; over 32.
[[gnu::always_inline]] inline Floats add16(Floats to, __m128i q, const float* x) {
  to = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), floats_at(x), to);
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8))),
                         floats_at(x + 8), to);
}
// Over 32 signed bytes in memory: eight at a time are widened as they are loaded, by no shuffle.
[[gnu::always_inline]] inline Floats dot32_at(const uint8_t* q, const float* x) {
  Floats sum[2] = {};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i w =
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + 8 * i)));
    sum[i / 2] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(w), floats_at(x + 8 * i), sum[i / 2]);
  }
  return sum[0] + sum[1];
}
[[gnu::always_inline]] inline Floats dot32(__m256i q, const float* x) {
  Floats low = add16(Floats{}, _mm256_castsi256_si128(q), x),
         high = add16(Floats{}, _mm256_extracti128_si256(q, 1), x + 16);
  return low + high;
}
[[gnu::always_inline]] inline Floats sum32(const float* x) {
  return (floats_at(x) + floats_at(x + 8)) + (floats_at(x + 16) + floats_at(x + 24));
}
[[gnu::always_inline]] inline __m256i bytes32(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
// The low and the high nibbles of 32 bytes; those of 16, low ones first.
[[gnu::always_inline]] inline __m256i low_nibbles(__m256i b) {
  return _mm256_and_si256(b, _mm256_set1_epi8(15));
}
[[gnu::always_inline]] inline __m256i high_nibbles(__m256i b) {
  return low_nibbles(_mm256_srli_epi16(b, 4));
}
[[gnu::always_inline]] inline __m256i nibbles16(const uint8_t* p) {
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return low_nibbles(_mm256_set_m128i(_mm_srli_epi16(b, 4), b));
}
// 16 where bit i of four bytes is set, else 0, in byte i.
[[gnu::always_inline]] inline __m256i fifth_bits(const uint8_t* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, 4);
  const __m256i spread = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202,
                                           0x0101010101010101, 0x0000000000000000),
                each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201)),
                mine = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), each);
  return _mm256_and_si256(_mm256_cmpeq_epi8(mine, each), _mm256_set1_epi8(16));
}

template <>
struct BlockDot<ref::Q8_0> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    return ref::half_at(b) * dot32_at(b + 2, x);
  }
};
template <>
struct BlockDot<ref::Q4_0> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    return ref::half_at(b) * dot32(_mm256_sub_epi8(nibbles16(b + 2), _mm256_set1_epi8(8)), x);
  }
};
template <>
struct BlockDot<ref::Q4_1> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    return ref::half_at(b) * dot32(nibbles16(b + 4), x) + ref::half_at(b + 2) * sum32(x);
  }
};
template <>
struct BlockDot<ref::Q5_0> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    const __m256i q = _mm256_or_si256(nibbles16(b + 6), fifth_bits(b + 2));
    return ref::half_at(b) * dot32(_mm256_sub_epi8(q, _mm256_set1_epi8(16)), x);
  }
};
template <>
struct BlockDot<ref::Q5_1> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    const __m256i q = _mm256_or_si256(nibbles16(b + 8), fifth_bits(b + 4));
    return ref::half_at(b) * dot32(q, x) + ref::half_at(b + 2) * sum32(x);
  }
};

// Q4_K and Q5_K: 8 sub-blocks of 32 with a scale and a minimum each; codes(part, high) their codes.
// Scales and minima (ref::scale_min) are taken out of their six bits and made floats all at once.
template <class F>
[[gnu::always_inline]] inline Floats sub_blocks(const uint8_t* b, const float* x, F&& codes) {
  uint32_t six[3], bytes[4];
  __builtin_memcpy(six, b + 4, 12);
  bytes[0] = six[0] & 0x3f3f3f3f;
  bytes[1] = (six[2] & 0x0f0f0f0f) | (six[0] >> 6 & 0x03030303) << 4;
  bytes[2] = six[1] & 0x3f3f3f3f;
  bytes[3] = (six[2] >> 4 & 0x0f0f0f0f) | (six[1] >> 6 & 0x03030303) << 4;
  alignas(32) float scale[16];  // and minimum; read one by one into all lanes
  for (int i = 0; i < 2; ++i)
    _mm256_store_ps(scale + 8 * i, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(
                                       reinterpret_cast<const __m128i*>(bytes + 2 * i)))));
  Floats sum{}, low{};
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    sum = _mm256_fmadd_ps(_mm256_broadcast_ss(scale + j), dot32(codes(j), x + 32 * j), sum);
    low = _mm256_fmadd_ps(_mm256_broadcast_ss(scale + 8 + j), sum32(x + 32 * j), low);
  }
  return ref::half_at(b) * sum - ref::half_at(b + 2) * low;
}
template <>
struct BlockDot<ref::Q4_K> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    return sub_blocks(b, x, [&](int j) {
      const __m256i q = bytes32(b + 16 + 32 * (j / 2));
      return j % 2 == 0 ? low_nibbles(q) : high_nibbles(q);
    });
  }
};
template <>
struct BlockDot<ref::Q5_K> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    const __m256i high = bytes32(b + 16);
    return sub_blocks(b, x, [&](int j) {
      const __m256i q = bytes32(b + 48 + 32 * (j / 2)),
                    bit = _mm256_and_si256(_mm256_srli_epi16(high, j), _mm256_set1_epi8(1));
      return _mm256_or_si256(j % 2 == 0 ? low_nibbles(q) : high_nibbles(q),
                             _mm256_slli_epi16(bit, 4));
    });
  }
};
template <>
struct BlockDot<ref::Q6_K> {
  [[gnu::always_inline]] static Floats of(const uint8_t* b, const float* x) {
    const auto* s = reinterpret_cast<const int8_t*>(b + 192);
    Floats sum{};
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {  // half j / 4 of the block, quarter k of it
      const int part = j / 4, k = j % 4;
      const __m256i l = bytes32(b + 64 * part + 32 * (k & 1)), h = bytes32(b + 128 + 32 * part),
                    two = _mm256_and_si256(_mm256_srli_epi16(h, 2 * k), _mm256_set1_epi8(3)),
                    q = _mm256_sub_epi8(_mm256_or_si256(k & 2 ? high_nibbles(l) : low_nibbles(l),
                                                        _mm256_slli_epi16(two, 4)),
                                        _mm256_set1_epi8(32));
      const float *at = x + 32 * j, first = static_cast<float>(s[2 * j]),
                  second = static_cast<float>(s[2 * j + 1]);
      sum += first * add16(Floats{}, _mm256_castsi256_si128(q), at) +
             second * add16(Floats{}, _mm256_extracti128_si256(q, 1), at + 16);
    }
    return ref::half_at(b + 208) * sum;
  }
};

#endif  // __AVX2__

// QuantKernels::dot. Four rows at a time, so that a piece of x is loaded once for all.
template <class B>
void dot(float* out, int64_t ld_out, const uint8_t* rows, int64_t apart, int64_t next,
         int64_t n_rows, const float* x, int64_t ldx, int64_t n_x, int64_t k) {
  const uint8_t* w[4];
  for (int64_t r = 0; r < 4; ++r) w[r] = rows + (r < n_rows ? r : n_rows - 1) * apart;
  for (int64_t i = 0; i < n_x; ++i) {
    const float* xi = x + i * ldx;
    Floats sum[4] = {};
    for (int64_t j = 0, at = 0; j < k; j += B::kElements, at += B::kBytes) {
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        for (int64_t line = 0; line < B::kBytes; line += 64)
          __builtin_prefetch(w[r] + at + line + next, 0, 2);
        sum[r] += BlockDot<B>::of(w[r] + at, xi + j);
      }
    }
    for (int64_t r = 0; r < n_rows; ++r) {
      float s = 0;
      for (int l = 0; l < 8; ++l) s += sum[r][l];
      out[i * ld_out + r] = s;
    }
  }
}

}  // namespace
}  // namespace sutor::cpu
