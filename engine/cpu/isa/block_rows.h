#pragma once
// A block of 32 columns from rows of a weight as they lie, for gradients of the inputs of few
// tokens: each row is converted on the way to the registers, while what is wanted next is fetched.
// Unnamed namespace, as in pack.h.

#include <algorithm>

#include "engine/cpu/isa/dot.h"

namespace sutor::cpu {
namespace {

// What is not computed of a block for `rows` x `cols` wanted lines, set to 0.
inline void clear_rest(float* c, int rows, int cols) {
  for (int r = 0; r < rows && cols < 32; ++r) std::memset(c + r * 32 + cols, 0, (32 - cols) * 4);
  if (rows < 32) std::memset(c + rows * 32, 0, (32 - rows) * 128);
}

// block_rows() of micro_table.h: R lines of A by 2 vectors of the rows of B, as corner_fma.
template <class Op, bool kRound, class S, int R>
inline void corner_rows(float* c, const uint32_t* a, const S* b, int64_t ld, int64_t rows,
                        bool accumulate, int64_t every, Fetch& fetch) {
  typename Op::V acc[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j)
      acc[r][j] = accumulate ? Op::load(c + r * 32 + j * Op::kW) : Op::zero();
  for (int64_t i = 0; i < rows; ++i, b += ld) {
    fetch.due += every;
    if (fetch.due >= rows) {
      fetch.due -= rows;
      __builtin_prefetch(fetch.at + fetch.line * 64, 0, 2);
      if (++fetch.line == fetch.lines) fetch.line = 0, fetch.at += fetch.row;
    }
    const auto b0 = load_weights<Op, kRound>(b), b1 = load_weights<Op, kRound>(b + Op::kW);
    const uint32_t* at = a + (i / 16) * 256 + i % 16;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto av = Op::broadcast(at + r * 16);
      acc[r][0] = Op::mac(acc[r][0], av, b0);
      acc[r][1] = Op::mac(acc[r][1], av, b1);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) Op::store(c + r * 32 + j * Op::kW, acc[r][j]);
}

template <class Op, bool kRound, class S>
void rows_typed(float* c, const Tiles& a, const S* b, int64_t ld, int64_t rows, bool accumulate,
                Fetch fetch) {
  constexpr int kMost = Op::kRegisters == 32 ? 8 : 6, kPair = 2 * Op::kW;
  const auto* wa = static_cast<const uint32_t*>(a.at);
  const int lines = (a.lines + 3) / 4 * 4;
  // A corner that is R of the lines wide fetches as large a part of its rows' cache lines.
  const int64_t all = fetch.lines == 0 ? 0 : rows * 32 * static_cast<int64_t>(sizeof(S)) / 64;
  for (int r = 0; r < lines;) {
    const int left = std::min(lines, r / 16 * 16 + 16) - r,
              n = left >= kMost + 4 || left == kMost ? kMost : 4;
    const uint32_t* at = wa + (r / 16) * (a.half / 4) + r % 16 * 16;
    const int64_t every = all * n * kPair / (lines * 32);
    for (int v = 0; v < 32; v += kPair) {
      if (n == kMost)
        corner_rows<Op, kRound, S, kMost>(c + r * 32 + v, at, b + v, ld, rows, accumulate, every,
                                          fetch);
      else
        corner_rows<Op, kRound, S, 4>(c + r * 32 + v, at, b + v, ld, rows, accumulate, every,
                                      fetch);
    }
    r += n;
  }
  if (!accumulate) clear_rest(c, lines, 32);
}

template <class Op, bool kRound>
void block_rows(float* c, Tiles a, const Rows& b, int64_t rows, bool accumulate,
                const Fetch& fetch) {
  switch (b.dtype) {
    case DType::BF16:
      return rows_typed<Op, kRound>(c, a, row_of<bf16>(b, 0), b.ld, rows, accumulate, fetch);
    case DType::F16:
      return rows_typed<Op, kRound>(c, a, row_of<f16>(b, 0), b.ld, rows, accumulate, fetch);
    case DType::F32:
      return rows_typed<Op, kRound>(c, a, row_of<float>(b, 0), b.ld, rows, accumulate, fetch);
    default:  // loaders refuse other types
      __builtin_trap();
  }
}

}  // namespace
}  // namespace sutor::cpu
