#pragma once
// Dot products of tokens with rows of a weight as they lie: up to four tokens of plain rows
// (decoding), and a few dozen packed by pack_few(). Lane by lane the sums of both are the same.
// Unnamed namespace, as in pack.h.

#include "engine/cpu/isa/pack.h"

namespace sutor::cpu {
namespace {

// A vector of weights as the GEMM would see them: f32 and f16 are rounded to bf16 when it rounds.
template <class V, bool kRound, class S>
inline typename V::V load_weights(const S* p) {
  if constexpr (!kRound || __is_same(S, bf16)) {
    return V::load(p);
  } else {
    float f[V::kW];
    for (int i = 0; i < V::kW; ++i) f[i] = float_of(rounded(widen(p[i])));
    return V::load(f);
  }
}

// What lies `next` elements further on is fetched already: what the caches fetch by themselves ends
// with each row, or lags.
template <class V, bool kRound, class S, int M>
inline void dot_rows(float* out, int64_t ld_out, const S* const* w, int64_t n_rows, int64_t next,
                     const float* x, int64_t ldx, int64_t k) {
  typename V::V acc[4][M];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) acc[r][m] = V::zero();
  int64_t i = 0;
  for (; i + V::kW <= k; i += V::kW) {
    typename V::V xv[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) xv[m] = V::load(x + m * ldx + i);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      if (i * sizeof(S) % 64 == 0) __builtin_prefetch(w[r] + i + next, 0, 2);
      auto wv = load_weights<V, kRound>(w[r] + i);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) acc[r][m] = V::fma(wv, xv[m], acc[r][m]);
    }
  }
#pragma GCC unroll 4
  for (int64_t r = 0; r < 4; ++r)  // constant indices, or the sums would live in memory
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      if (r >= n_rows) continue;
      float s = V::sum(acc[r][m]);
      for (int64_t j = i; j < k; ++j)
        s += (kRound ? float_of(rounded(widen(w[r][j]))) : widen(w[r][j])) * x[m * ldx + j];
      out[m * ld_out + r] = s;
    }
}

template <class V, bool kRound, class S>
void dot_typed(float* out, int64_t ld_out, const Rows& src, int64_t row, int64_t n_rows,
               const float* x, int64_t ldx, int64_t n_x, int64_t k, int64_t next) {
  const S* w[4];
  for (int64_t r = 0; r < 4; ++r) w[r] = row_of<S>(src, row + (r < n_rows ? r : n_rows - 1));
  switch (n_x) {
    case 1:
      return dot_rows<V, kRound, S, 1>(out, ld_out, w, n_rows, next, x, ldx, k);
    case 2:
      return dot_rows<V, kRound, S, 2>(out, ld_out, w, n_rows, next, x, ldx, k);
    case 3:
      return dot_rows<V, kRound, S, 3>(out, ld_out, w, n_rows, next, x, ldx, k);
    default:
      return dot_rows<V, kRound, S, 4>(out, ld_out, w, n_rows, next, x, ldx, k);
  }
}

template <class V, bool kRound>
void dot(float* out, int64_t ld_out, const Rows& w, int64_t row, int64_t n_rows, const float* x,
         int64_t ldx, int64_t n_x, int64_t k, int64_t next) {
  switch (w.dtype) {
    case DType::BF16:
      return dot_typed<V, kRound, bf16>(out, ld_out, w, row, n_rows, x, ldx, n_x, k, next);
    case DType::F16:
      return dot_typed<V, kRound, f16>(out, ld_out, w, row, n_rows, x, ldx, n_x, k, next);
    case DType::F32:
      return dot_typed<V, kRound, float>(out, ld_out, w, row, n_rows, x, ldx, n_x, k, next);
    default:  // loaders refuse other types
      __builtin_trap();
  }
}

// pack_few() and few_dots() take tokens in groups that fill the registers with sums, four rows of
// the weight by a group, and leave room for what is multiplied. A group of M is [k / kW][M][kW]
// words.
template <class V>
constexpr int kGroup = V::kRegisters == 32 ? 6 : 3;

// The next group of `left` > 1 tokens: one alone would wait for each of its sums.
template <class V>
inline int64_t group_size(int64_t left) {
  return left <= kGroup<V> ? left : left == kGroup<V> + 1 ? kGroup<V> - 1 : kGroup<V>;
}

template <class V, bool kRound>
void pack_few(float* to, const Rows& src, int64_t first, int64_t n, int64_t k) {
  constexpr int kW = V::kW;
  const int64_t whole = k / kW * kW, padded = (k + kW - 1) / kW * kW;
  auto value = [](float f) { return kRound ? float_of(rounded(f)) : f; };
  for (int64_t m = 0, size; m < n; m += size, to += size * padded) {
    size = group_size<V>(n - m);
    for (int64_t j = 0; j < size; ++j) {
      const float* __restrict row = row_of<float>(src, first + m + j);
      float* __restrict out = to + j * kW;
      for (int64_t i = 0; i < whole; i += kW, out += size * kW)
        for (int l = 0; l < kW; ++l) out[l] = value(row[i + l]);
      for (int64_t i = whole; i < padded; ++i) out[i - whole] = i < k ? value(row[i]) : 0.0f;
    }
  }
}

// Four rows by a group of M; rows [fetch, fetch_end) are fetched `next` elements further on.
template <class V, bool kRound, class S, int M>
inline void group_dots(float* out, int64_t ld_out, const S* const* w, int64_t n_rows, int fetch,
                       int fetch_end, int64_t next, const float* x, int64_t k) {
  constexpr int kW = V::kW;
  constexpr int64_t kLine = 64 / sizeof(S) < kW ? kW : 64 / sizeof(S);  // a cache line of weights
  typename V::V acc[4][M];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r)
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) acc[r][m] = V::zero();
  auto step = [&](int64_t i) __attribute__((always_inline)) {
    // Where sums fill the registers the last token is read from memory by each multiply-add.
    constexpr int kHeld = V::kRegisters == 16 && M == 3 ? 2 : M;
    typename V::V xv[M];
#pragma GCC unroll 6
    for (int m = 0; m < kHeld; ++m) xv[m] = V::load(x + m * kW);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const auto wv = load_weights<V, kRound>(w[r] + i);
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m)
        acc[r][m] = m < kHeld ? V::fma(wv, xv[m], acc[r][m]) : V::fma_at(wv, x + m * kW, acc[r][m]);
    }
    x += M * kW;
  };
  int64_t i = 0;
  // Types that are rounded on the way are rare, and their code is long.
  constexpr bool kLines = !kRound || __is_same(S, bf16);
  for (; kLines && i + kLine <= k; i += kLine) {
    for (int r = fetch; r < fetch_end; ++r) __builtin_prefetch(w[r] + i + next, 0, 2);
#pragma GCC unroll 8
    for (int64_t j = 0; j < kLine; j += kW) step(i + j);
  }
  for (; i + kW <= k; i += kW) step(i);
#pragma GCC unroll 4
  for (int64_t r = 0; r < 4; ++r)  // constant indices, or the sums would live in memory
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      if (r >= n_rows) continue;
      float s = V::sum(acc[r][m]);
      for (int64_t j = i; j < k; ++j)
        s += (kRound ? float_of(rounded(widen(w[r][j]))) : widen(w[r][j])) * x[m * kW + j - i];
      out[m * ld_out + r] = s;
    }
}

template <int M>
struct Group {};

template <class V, bool kRound, class S>
void few_typed(float* out, int64_t ld_out, const Rows& src, int64_t row, int64_t n_rows,
               const float* x, int64_t n, int64_t k, int64_t next) {
  const S* w[4];
  for (int64_t r = 0; r < 4; ++r) w[r] = row_of<S>(src, row + (r < n_rows ? r : n_rows - 1));
  const int64_t padded = (k + V::kW - 1) / V::kW * V::kW;
  int64_t groups = 0;
  for (int64_t m = 0; m < n; m += group_size<V>(n - m)) ++groups;
  // The groups share the fetching, or it would have to wait for memory while the first is at work.
  for (int64_t m = 0, g = 0, size; m < n; m += size, x += size * padded, ++g) {
    size = group_size<V>(n - m);
    const int fetch = static_cast<int>(4 * g / groups),
              end = static_cast<int>(4 * (g + 1) / groups);
    auto dots = [&]<int M>(Group<M>) {
      group_dots<V, kRound, S, M>(out + m * ld_out, ld_out, w, n_rows, fetch, end, next, x, k);
    };
    if (size == 2) dots(Group<2>{});
    if (size == 3) dots(Group<3>{});
    if constexpr (kGroup<V> == 6) {
      if (size == 4) dots(Group<4>{});
      if (size == 5) dots(Group<5>{});
      if (size == 6) dots(Group<6>{});
    }
  }
}

template <class V, bool kRound>
void few_dots(float* out, int64_t ld_out, const Rows& w, int64_t row, int64_t n_rows,
              const float* x, int64_t n, int64_t k, int64_t next) {
  switch (w.dtype) {
    case DType::BF16:
      return few_typed<V, kRound, bf16>(out, ld_out, w, row, n_rows, x, n, k, next);
    case DType::F16:
      return few_typed<V, kRound, f16>(out, ld_out, w, row, n_rows, x, n, k, next);
    case DType::F32:
      return few_typed<V, kRound, float>(out, ld_out, w, row, n_rows, x, n, k, next);
    default:  // loaders refuse other types
      __builtin_trap();
  }
}

}  // namespace
}  // namespace sutor::cpu
