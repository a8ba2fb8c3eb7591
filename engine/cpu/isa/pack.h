#pragma once
// Packing of panels (layout: engine/cpu/micro_table.h), compiled once per instruction set from
// plain loops that vectorise. Everything here is in an unnamed namespace: two instruction sets must
// never share a symbol.

#include <cstdint>
#include <cstring>

#include "engine/cpu/micro_table.h"

#ifdef __AVX2__
// GCC 12's AVX-512 headers warn about their own _mm512_undefined_*().
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#endif

namespace sutor::cpu {
namespace {

enum class Mode { kF32, kRounded, kBF16 };

inline uint32_t bits_of(float f) { return __builtin_bit_cast(uint32_t, f); }
inline float float_of(uint32_t u) { return __builtin_bit_cast(float, u); }

// bf16 of f in the upper half of the word, to nearest even; NaN stays NaN.
inline uint32_t rounded(float f) {
  uint32_t u = bits_of(f), r = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
  // Signed on purpose: AVX2 compares no unsigned words, and the loop would stay scalar.
  return static_cast<int32_t>(u & 0x7fffffffu) > 0x7f800000 ? (u | 0x400000u) & 0xffff0000u : r;
}

inline float widen(float f) { return f; }
inline float widen(bf16 b) { return float_of(static_cast<uint32_t>(b.bits) << 16); }
inline float widen(f16 h) { return static_cast<float>(__builtin_bit_cast(_Float16, h.bits)); }

#ifdef __AVX512F__
inline void transpose16(uint32_t* out, const uint32_t* in) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(in + 16 * i);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + 16 * i, r[i]);
}
#elif defined(__AVX2__)
// 8 x 8 words from rows of 16 to rows of 16.
inline void transpose8(uint32_t* out, const uint32_t* in) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(in + 16 * i));
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    auto* to = reinterpret_cast<float*>(out + 16 * i);
    _mm256_storeu_ps(to, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + 64, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
inline void transpose16(uint32_t* out, const uint32_t* in) {
  transpose8(out, in);
  transpose8(out + 8, in + 128);
  transpose8(out + 128, in + 8);
  transpose8(out + 136, in + 136);
}
#else
inline void transpose16(uint32_t* out, const uint32_t* in) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) out[i * 16 + j] = in[j * 16 + i];
}
#endif

template <Mode kMode>
constexpr int kStep = kMode == Mode::kBF16 ? 32 : 16;

template <Mode kMode, class S>
inline void words_along(uint32_t* __restrict out, const S* __restrict p) {
  if constexpr (kMode == Mode::kBF16 && sizeof(S) == 2 && !__is_same(S, f16)) {
    std::memcpy(out, p, 64);
  } else if constexpr (kMode == Mode::kBF16) {
    for (int w = 0; w < 16; ++w)
      out[w] = rounded(widen(p[2 * w])) >> 16 | rounded(widen(p[2 * w + 1]));
  } else if constexpr (kMode == Mode::kRounded && !__is_same(S, bf16)) {
    for (int w = 0; w < 16; ++w) out[w] = rounded(widen(p[w]));
  } else {
    for (int w = 0; w < 16; ++w) out[w] = bits_of(widen(p[w]));
  }
}

template <Mode kMode, class S>
inline void words_across(uint32_t* __restrict out, const S* __restrict p, const S* __restrict q) {
  if constexpr (kMode == Mode::kBF16) {
    for (int w = 0; w < 16; ++w) out[w] = rounded(widen(p[w])) >> 16 | rounded(widen(q[w]));
  } else if constexpr (kMode == Mode::kRounded && !__is_same(S, bf16)) {
    for (int w = 0; w < 16; ++w) out[w] = rounded(widen(p[w]));
  } else {
    for (int w = 0; w < 16; ++w) out[w] = bits_of(widen(p[w]));
  }
}
template <>
inline void words_across<Mode::kBF16, bf16>(uint32_t* __restrict out, const bf16* __restrict p,
                                            const bf16* __restrict q) {
  for (int w = 0; w < 16; ++w) out[w] = p[w].bits | static_cast<uint32_t>(q[w].bits) << 16;
}

template <class S>
inline const S* row_of(const Rows& src, int64_t i) {
  return static_cast<const S*>(src.data) + (src.index ? src.index[i] : i) * src.ld;
}

template <Mode kMode, class S>
void pack_along_from(char* panel, const Rows& src, int64_t first, int64_t n, int64_t p, int64_t s0,
                     int64_t s1, int64_t steps, bool is_b) {
  constexpr int kW = kStep<kMode>;
  auto tile_row = [&](uint32_t* out, int64_t line, int64_t s) {
    int64_t k = s * kW, left = p - k;
    if (line >= n) {
      std::memset(out, 0, 64);
    } else if (left >= kW) {
      words_along<kMode>(out, row_of<S>(src, first + line) + k);
    } else {
      S edge[kW];
      std::memset(static_cast<void*>(edge), 0, sizeof edge);
      if (left > 0)
        std::memcpy(static_cast<void*>(edge), row_of<S>(src, first + line) + k, left * sizeof(S));
      words_along<kMode>(out, edge);
    }
  };
  if (!is_b) {  // row after row: sequential reads
    for (int64_t line = 0; line < 32; ++line)
      for (int64_t s = s0; s < s1; ++s)
        tile_row(
            reinterpret_cast<uint32_t*>(panel + ((line / 16) * steps + s) * 1024) + line % 16 * 16,
            line, s);
    return;
  }
  alignas(64) uint32_t tile[256];
  for (int64_t half = 0; half < 2; ++half)
    for (int64_t s = s0; s < s1; ++s) {
      for (int64_t r = 0; r < 16; ++r) tile_row(tile + r * 16, half * 16 + r, s);
      transpose16(reinterpret_cast<uint32_t*>(panel + (half * steps + s) * 1024), tile);
    }
}

template <Mode kMode, class S>
void pack_across_from(char* panel, const Rows& src, int64_t first, int64_t n, int64_t p, int64_t s0,
                      int64_t s1, int64_t steps, bool is_b) {
  constexpr int kPer = kMode == Mode::kBF16 ? 2 : 1;
  alignas(64) uint32_t tile[256];
  S edge[2][16];
  for (int64_t s = s0; s < s1; ++s)
    for (int64_t half = 0; half < 2; ++half) {
      int64_t c = first + half * 16, cols = n - half * 16;
      auto* out = reinterpret_cast<uint32_t*>(panel + (half * steps + s) * 1024);
      uint32_t* to = is_b ? out : tile;
      for (int64_t w = 0; w < 16; ++w) {
        int64_t r = (s * 16 + w) * kPer;
        if (r >= p || cols <= 0) {
          std::memset(to + w * 16, 0, 64);
        } else if (cols >= 16 && r + kPer <= p) {
          words_across<kMode>(to + w * 16, row_of<S>(src, r) + c, row_of<S>(src, r + kPer - 1) + c);
        } else {
          std::memset(static_cast<void*>(edge), 0, sizeof edge);
          int64_t m = cols < 16 ? cols : 16;
          for (int i = 0; i < kPer && r + i < p; ++i)
            std::memcpy(static_cast<void*>(edge[i]), row_of<S>(src, r + i) + c, m * sizeof(S));
          words_across<kMode, S>(to + w * 16, edge[0], edge[1]);
        }
      }
      if (!is_b) transpose16(out, tile);
    }
}

template <Mode kMode>
void pack_along(char* panel, const Rows& src, int64_t first, int64_t n, int64_t p, int64_t s0,
                int64_t s1, int64_t steps, bool is_b) {
  switch (src.dtype) {
    case DType::BF16:
      return pack_along_from<kMode, bf16>(panel, src, first, n, p, s0, s1, steps, is_b);
    case DType::F16:
      return pack_along_from<kMode, f16>(panel, src, first, n, p, s0, s1, steps, is_b);
    case DType::F32:
      return pack_along_from<kMode, float>(panel, src, first, n, p, s0, s1, steps, is_b);
    default:  // loaders refuse other types
      __builtin_trap();
  }
}

template <Mode kMode>
void pack_across(char* panel, const Rows& src, int64_t first, int64_t n, int64_t p, int64_t s0,
                 int64_t s1, int64_t steps, bool is_b) {
  switch (src.dtype) {
    case DType::BF16:
      return pack_across_from<kMode, bf16>(panel, src, first, n, p, s0, s1, steps, is_b);
    case DType::F16:
      return pack_across_from<kMode, f16>(panel, src, first, n, p, s0, s1, steps, is_b);
    case DType::F32:
      return pack_across_from<kMode, float>(panel, src, first, n, p, s0, s1, steps, is_b);
    default:  // loaders refuse other types
      __builtin_trap();
  }
}

}  // namespace
}  // namespace sutor::cpu
