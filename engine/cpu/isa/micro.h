#pragma once
// The micro-kernels on packed panels and their epilogues, as templates over a vector type V (width
// kW, load, fma, ...) that each file of this folder defines. Unnamed namespace, as in pack.h.

#include "engine/cpu/fast_math.h"
#include "engine/cpu/isa/block_rows.h"

namespace sutor::cpu {
namespace {

// One R x C corner of a block in registers: R rows of A by C vectors of B. Op: V, kW, kRegisters,
// load_words, broadcast, mac(acc, a, b), load, store, zero.
template <class Op, int R, int C>
inline void corner_fma(float* c, const uint32_t* a, const uint32_t* const* b, int64_t steps,
                       bool accumulate) {
  constexpr int kW = Op::kW;
  typename Op::V acc[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) acc[r][j] = accumulate ? Op::load(c + r * 32 + j * kW) : Op::zero();
  for (int64_t s = 0; s < steps; ++s)
    for (int w = 0; w < 16; ++w) {
      typename Op::V bv[C];
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) bv[j] = Op::load_words(b[j] + s * 256 + w * 16);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        typename Op::V av = Op::broadcast(a + s * 256 + r * 16 + w);
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) acc[r][j] = Op::mac(acc[r][j], av, bv[j]);
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) Op::store(c + r * 32 + j * kW, acc[r][j]);
}

template <int N>
struct Int {};

// The next corner of C vectors, of at most `left` rows; returns how many rows it has: as many as
// the registers hold, for fewer loads per multiply-add. 16 rows are 6 + 6 + 4 where there are 16
// registers.
template <class Op, int C>
inline int corner(float* c, const uint32_t* a, const uint32_t* const* b, int64_t steps,
                  bool accumulate, int left) {
  auto rows = [&]<int R>(Int<R>) {
    corner_fma<Op, R, C>(c, a, b, steps, accumulate);
    return R;
  };
  constexpr bool kMany = Op::kRegisters == 32;
  if constexpr (kMany && C == 1)
    if (left == 16) return rows(Int<16>{});
  if constexpr (C == 1 || (kMany && C == 2))
    if (left >= 8) return rows(Int<8>{});
  if constexpr (!kMany && C == 2)
    if (left >= 10 || left == 6) return rows(Int<6>{});
  return rows(Int<4>{});
}

// block() of micro_table.h by corners of 2 vectors, the last of 3 or 1 where their number is odd.
template <class Op>
void block_fma(float* c, Tiles a, Tiles b, int64_t steps, bool accumulate) {
  constexpr int kW = Op::kW, kPerHalf = 16 / kW;
  const auto* wa = static_cast<const uint32_t*>(a.at);
  const auto* wb = static_cast<const uint32_t*>(b.at);
  int vectors = (b.lines + kW - 1) / kW, rows = (a.lines + 3) / 4 * 4;
  auto columns = [&]<int C>(Int<C>, int v) {
    const uint32_t* bp[C];
    for (int j = 0; j < C; ++j)
      bp[j] = wb + ((v + j) / kPerHalf) * (b.half / 4) + ((v + j) % kPerHalf) * kW;
    for (int r = 0; r < rows;)
      r += corner<Op, C>(c + r * 32 + v * kW, wa + (r / 16) * (a.half / 4) + (r % 16) * 16, bp,
                         steps, accumulate, rows - r < 16 - r % 16 ? rows - r : 16 - r % 16);
  };
  for (int v = 0; v < vectors;) {
    int left = vectors - v, n = left == 3 ? 3 : left == 1 ? 1 : 2;
    if (n == 3) columns(Int<3>{}, v);
    if (n == 2) columns(Int<2>{}, v);
    if (n == 1) columns(Int<1>{}, v);
    v += n;
  }
  if (!accumulate) clear_rest(c, rows, vectors * kW);
}

inline void store_t(float* y, int64_t ld, const float* c, int64_t rows, int64_t cols,
                    const float* bias) {
  alignas(64) uint32_t in[256], out[256];
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t j = 0; j < cols; j += 16) {
      for (int r = 0; r < 16; ++r) std::memcpy(in + r * 16, c + (i + r) * 32 + j, 64);
      transpose16(out, in);
      int64_t n = rows - i < 16 ? rows - i : 16, m = cols - j < 16 ? cols - j : 16;
      for (int64_t q = 0; q < m; ++q) {
        float* to = y + (j + q) * ld + i;
        const auto* from = out + q * 16;
        if (bias) {
          for (int64_t p = 0; p < n; ++p) to[p] = float_of(from[p]) + bias[i + p];
        } else if (n == 16) {
          std::memcpy(to, from, 64);  // of known size: vectors
        } else {
          std::memcpy(to, from, n * 4);
        }
      }
    }
}

inline void store(float* y, int64_t ld, const float* c, int64_t rows, int64_t cols, bool add) {
  for (int64_t i = 0; i < rows; ++i) {
    float* __restrict to = y + i * ld;
    const float* __restrict from = c + i * 32;
    if (cols == 32 && add) {  // the count is known: vectors
      for (int64_t j = 0; j < 32; ++j) to[j] += from[j];
    } else if (cols == 32) {
      std::memcpy(to, from, 128);
    } else {
      for (int64_t j = 0; j < cols; ++j) to[j] = add ? to[j] + from[j] : from[j];
    }
  }
}

inline void nf4(bf16* out, const uint8_t* bytes, int64_t n, const float* code, float scale) {
  alignas(16) uint16_t value[16];
  for (int c = 0; c < 16; ++c) value[c] = static_cast<uint16_t>(rounded(code[c] * scale) >> 16);
  int64_t i = 0;
#ifdef __AVX2__
  // A value's two bytes are looked up by two shuffles.
  __m128i v0 = _mm_load_si128(reinterpret_cast<const __m128i*>(value)),
          v1 = _mm_load_si128(reinterpret_cast<const __m128i*>(value) + 1);
  __m128i byte = _mm_set1_epi16(0xff), nibble = _mm_set1_epi8(15);
  __m128i low = _mm_packus_epi16(_mm_and_si128(v0, byte), _mm_and_si128(v1, byte)),
          high = _mm_packus_epi16(_mm_srli_epi16(v0, 8), _mm_srli_epi16(v1, 8));
  for (; i + 16 <= n; i += 16) {
    __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
    __m128i first = _mm_and_si128(_mm_srli_epi16(b, 4), nibble), second = _mm_and_si128(b, nibble);
    __m128i codes[2] = {_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)};
    for (int h = 0; h < 2; ++h) {
      __m128i l = _mm_shuffle_epi8(low, codes[h]), u = _mm_shuffle_epi8(high, codes[h]);
      auto* to = reinterpret_cast<__m128i*>(out + 2 * i + 16 * h);
      _mm_storeu_si128(to, _mm_unpacklo_epi8(l, u));
      _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(l, u));
    }
  }
#endif
  for (; i < n; ++i) {
    out[2 * i].bits = value[bytes[i] >> 4];
    out[2 * i + 1].bits = value[bytes[i] & 15];
  }
}

#ifdef __AVX2__
// code[nibble] x over a block of 64, in lanes. Lane i takes its nibble to the bottom; two tables of
// 8 are looked up by its low three bits and its fourth picks one.
inline __m256 nf4_block(const uint8_t* codes, __m256 low, __m256 high, const float* x) {
  const __m256i shift = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
  __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    int32_t bytes;
    std::memcpy(&bytes, codes + 4 * i, 4);
    const __m256i nibble = _mm256_srlv_epi32(_mm256_set1_epi32(bytes), shift);
    const __m256 w = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, nibble),
                                      _mm256_permutevar8x32_ps(high, nibble),
                                      _mm256_castsi256_ps(_mm256_slli_epi32(nibble, 28)));
    sum[i % 2] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + 8 * i), sum[i % 2]);
  }
  return _mm256_add_ps(sum[0], sum[1]);
}
#endif

inline void nf4_dot(float* out, int64_t ld_out, const uint8_t* codes, int64_t apart, int64_t n_rows,
                    const float* scales, const float* code, const float* x, int64_t ldx,
                    int64_t n_x, int64_t k) {
  const int64_t blocks = k / 64;
  const uint8_t* row[4];
  const float* scale[4];
  for (int64_t r = 0; r < 4; ++r) {
    const int64_t from = r < n_rows ? r : n_rows - 1;
    row[r] = codes + from * apart;
    scale[r] = scales + from * blocks;
  }
  for (int64_t m = 0; m < n_x; ++m) {
    const float* xm = x + m * ldx;
#ifdef __AVX2__
    const __m256 low = _mm256_loadu_ps(code), high = _mm256_loadu_ps(code + 8);
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                     _mm256_setzero_ps()};
    for (int64_t b = 0; b < blocks; ++b)
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        if (b % 2 == 0) __builtin_prefetch(row[r] + b * 32 + k / 2, 0, 2);
        sum[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(scale[r] + b),
                                 nf4_block(row[r] + b * 32, low, high, xm + b * 64), sum[r]);
      }
    for (int64_t r = 0; r < n_rows; ++r) {
      float lane[8], all = 0;
      _mm256_storeu_ps(lane, sum[r]);
      for (float l : lane) all += l;
      out[m * ld_out + r] = all;
    }
#else
    for (int64_t r = 0; r < n_rows; ++r) {
      float all = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        float sum = 0;
        for (int64_t i = 0; i < 32; ++i) {
          const uint8_t two = row[r][b * 32 + i];
          sum += code[two >> 4] * xm[b * 64 + 2 * i] + code[two & 15] * xm[b * 64 + 2 * i + 1];
        }
        all += scale[r][b] * sum;
      }
      out[m * ld_out + r] = all;
    }
#endif
  }
}

inline void swiglu(float* __restrict a, const float* __restrict g, const float* __restrict u,
                   int64_t n) {
  for (int64_t i = 0; i < n; ++i) a[i] = g[i] * fast_sigmoid(g[i]) * u[i];
}

inline float swiglu_grad(float* __restrict z, float* __restrict g, float* __restrict u,
                         float weight, int64_t n) {
  float lane[16] = {};
  float za[64];  // n <= 64
  for (int64_t i = 0; i < n; ++i) {
    float s = fast_sigmoid(g[i]), silu = g[i] * s, a = silu * u[i], da = weight * z[i];
    za[i] = z[i] * a;
    u[i] = (da * u[i]) * (s * (1.0f + g[i] * (1.0f - s)));  // dgate, swapped below
    g[i] = da * silu;                                       // dup
    z[i] = weight * a;
  }
  for (int64_t i = 0; i < n; ++i) {
    float t = g[i];
    g[i] = u[i];
    u[i] = t;
  }
  for (int64_t i = 0; i < n; ++i) lane[i % 16] += za[i];
  float sum = 0;
  for (float l : lane) sum += l;
  return sum;
}

inline void axpy(float* __restrict y, const float* __restrict x, float a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

inline void axpy4(float* __restrict y, const float* __restrict x, int64_t ldx,
                  const float* __restrict a, int64_t n) {
  const float *x1 = x + ldx, *x2 = x1 + ldx, *x3 = x2 + ldx;
  const float a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
  for (int64_t i = 0; i < n; ++i) {
    float sum = y[i];
    sum += a0 * x[i];
    sum += a1 * x1[i];
    sum += a2 * x2[i];
    sum += a3 * x3[i];
    y[i] = sum;
  }
}

inline float exp_sum(float* s, float scale, float shift, int64_t n) {
  float lane[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; ++j) lane[j] += s[i + j] = fast_exp(s[i + j] * scale - shift);
  for (; i < n; ++i) lane[i % 16] += s[i] = fast_exp(s[i] * scale - shift);
  float sum = 0;
  for (float l : lane) sum += l;
  return sum;
}

// What tables of pairs do not have is not compiled for them.
template <Mode kMode, class V>
constexpr decltype(MicroKernels::block_rows) by_rows() {
  if constexpr (kMode == Mode::kBF16)
    return nullptr;
  else
    return block_rows<V, kMode == Mode::kRounded>;
}
template <Mode kMode, class V>
constexpr decltype(MicroKernels::few_dots) by_dots() {
  if constexpr (kMode == Mode::kBF16)
    return nullptr;
  else
    return few_dots<V, kMode == Mode::kRounded>;
}

template <Mode kMode, class V>
constexpr MicroKernels table(decltype(MicroKernels::block) block, bool reads_rows = false,
                             int few = 0) {
  return {kStep<kMode>,
          kMode != Mode::kF32,
          reads_rows,
          few,
          V::kW,
          kGroup<V>,
          block,
          by_rows<kMode, V>(),
          pack_along<kMode>,
          pack_across<kMode>,
          store_t,
          store,
          dot<V, kMode != Mode::kF32>,
          pack_few<V, kMode != Mode::kF32>,
          by_dots<kMode, V>(),
          nf4,
          nf4_dot,
          swiglu,
          swiglu_grad,
          axpy,
          axpy4,
          exp_sum};
}

}  // namespace
}  // namespace sutor::cpu
