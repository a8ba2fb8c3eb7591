#pragma once
// Products with the columns of weights [P, lines], as gradients of inputs are: a run of P after the
// other where tokens are few, all of it packed before where they are many. The same bits either
// way. Users: linear.cpp, moe_ffn_bwd.cpp.

#include <initializer_list>

#include "engine/cpu/gemm.h"

namespace sutor::cpu {

// Panels of columns that a unit takes where tokens are few: not cut more than the threads need.
inline int64_t wide_of(int64_t panels, int64_t sharers) {
  return std::min({panels, ceil_div(panels * sharers, 4 * num_threads()), wide_panels()});
}

// With few tokens products wait for memory. Rows of weights are read in long pieces, a run of P at
// a time: as they lie, while the next run is fetched, by kernels that can and one panel of tokens;
// else packed.
template <class F, class G>
void sweep_runs(const MicroKernels& mk, std::initializer_list<const Tensor*> weights, int64_t lines,
                int64_t first, int64_t count, int64_t tokens, F&& operand, G&& done) {
  const int64_t p = (*weights.begin())->dim(0), steps = steps_of(mk, p), run = wide_run(count),
                panels = panels_of(tokens);
  const bool whole = mk.block_rows && tokens <= kMostDots && (first + count) * 32 <= lines;
  auto* sums = reinterpret_cast<float*>(scratch(kSweepSlot, count * panels * 4096));
  auto at = [&](int64_t i, int64_t t) { return sums + (i * panels + t) * 1024; };
  // Columns [first * 32, ...) of a weight from a row on, for block_rows().
  auto rows_at = [&](const Tensor& w, int64_t row) {
    Rows r = rows_of(w);
    r.data = w.data + (row * w.ld + first * 32) * size_of(w.dtype);
    return r;
  };
  for (const auto* w = weights.begin(); w != weights.end(); ++w) {
    const int k = static_cast<int>(w - weights.begin());
    const bool as_they_lie = whole && !is_packed((*w)->dtype);
    // Of rows that are 4 KB apart, twice so many as a run has must not fall out of an 8-way L2.
    const int64_t most = as_they_lie ? 2 : run;
    for (int64_t s0 = 0; s0 < steps; s0 += most) {
      const int64_t part = std::min(most, steps - s0);
      const bool more = k > 0 || s0 > 0;
      if (as_they_lie) {
        const int64_t row = s0 * mk.step, rows = std::min(part * mk.step, p - row),
                      size = size_of((*w)->dtype), line = 32 * size / 64;
        const Tensor* next = row + rows < p ? *w : w + 1 < weights.end() ? w[1] : nullptr;
        Fetch fetch;
        if (next && next->dtype == (*w)->dtype) {
          fetch.at = static_cast<const char*>(rows_at(*next, (row + rows) % p).data);
          fetch.row = next->ld * size;
          fetch.lines = static_cast<int>(count * line);
        }
        Rows b = rows_at(**w, row);
        const auto* from = static_cast<const char*>(b.data);
        for (int64_t i = 0; i < count; ++i) {
          b.data = from + i * 32 * size;
          Fetch mine = fetch;  // this panel's part of it, in the order of rows
          const int64_t before = i * rows * line;
          if (fetch.lines > 0) {
            mine.at += before / fetch.lines * fetch.row;
            mine.line = static_cast<int>(before % fetch.lines);
          }
          mk.block_rows(at(i, 0), operand(k, 0, s0), b, rows, more, mine);
        }
        continue;
      }
      char* packed = scratch(0, count * run * 2048);
      pack_run(mk, packed, **w, s0, part, lines, first, count, true);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t t = 0; t < panels; ++t)
          mk.block(at(i, t), operand(k, t, s0),
                   tiles(packed + i * part * 2048, part,
                         std::min<int64_t>(32, lines - (first + i) * 32)),
                   part, more);
    }
  }
  for (int64_t i = 0; i < count; ++i)
    for (int64_t t = 0; t < panels; ++t) done(i, t, at(i, t));
}

// c[i, t] = sum over the products of token operand (product, t, tile) times the weight's columns,
// panels [first, first + count) of them; done(i, t, c).
template <class F, class G>
void sweep_columns(const MicroKernels& mk, std::initializer_list<const Tensor*> weights,
                   int64_t lines, int64_t first, int64_t count, int64_t tokens, F&& operand,
                   G&& done) {
  if (panels_of(tokens) <= kFewTokens)
    return sweep_runs(mk, weights, lines, first, count, tokens, operand, done);
  const int64_t p = (*weights.begin())->dim(0), steps = steps_of(mk, p);
  const char* packed[2];
  int slot = 0;
  for (const Tensor* w : weights) {
    packed[slot] = pack_group(mk, slot, *w, true, lines, p, first, count, true);
    ++slot;
  }
  sweep(
      count, panels_of(tokens), steps, 1,
      [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
        for (int k = 0; k < slot; ++k)
          mk.block(c, operand(k, t, s0),
                   tiles(packed[k] + i * steps * 2048, steps,
                         std::min<int64_t>(32, lines - (first + i) * 32), s0),
                   run, more || k > 0);
      },
      done);
}

}  // namespace sutor::cpu
