#pragma once
// What the matrix kernels share: buffers of packed panels, and the loop over panels that are packed
// on the fly (weights) against panels packed before (tokens). One C block of 32 x 32 is computed by
// one thread over all of P: no thread count changes a bit.

#include <algorithm>

#include "engine/cpu/isa.h"
#include "engine/parallel.h"

namespace sutor::cpu {

constexpr int64_t kDecodeTokens =
    4;  // up to here: dot products along k, weights read once, no packing

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t panels_of(int64_t lines) { return ceil_div(lines, 32); }
inline int64_t steps_of(const MicroKernels& mk, int64_t p) { return ceil_div(p, mk.step); }
inline Rows rows_of(const Tensor& t, const int32_t* index = nullptr) {
  return {t.data, t.dtype, t.ld, index};
}

// 64-byte aligned memory of the calling thread, at least `bytes`; valid until its next call with
// this slot.
char* scratch(int slot, int64_t bytes);
constexpr int kSweepSlot = 7, kPackedSlot = 6;

// Packed panels of one operand, all of the same P.
struct Panels {
  Tensor memory;
  int64_t steps = 0;
  int64_t bytes() const { return steps * 2048; }
  char* at(int64_t i) const { return reinterpret_cast<char*>(memory.data) + i * bytes(); }
};

// `lines` lines of a packed panel of `steps` tiles, from tile s0 on.
inline Tiles tiles(const char* panel, int64_t steps, int64_t lines = 32, int64_t s0 = 0) {
  return {panel + s0 * 1024, steps * 1024, static_cast<int>(lines)};
}
Panels make_panels(const MicroKernels& mk, int64_t count, int64_t p);

// All panels of `lines` lines, in parallel.
Panels pack_along(const MicroKernels& mk, const Rows& src, int64_t lines, int64_t p, bool is_b);
Panels pack_across(const MicroKernels& mk, const Rows& src, int64_t lines, int64_t p, bool is_b);

// P is worked off in runs of at most so many tiles: an eighth of L2 for a panel's run.
int64_t run_of(int64_t steps);

// How many weight panels (of `products` operands each) one unit of work packs and sweeps: their
// runs fill half of L2, and there are enough units for all threads.
int64_t group_of(int64_t panels, int64_t steps, int64_t products = 1, int64_t sharers = 1);

// The blocks of a unit: `weights` panels by `tokens` panels, all of P in runs that stay in L2.
// multiply(w, t, s0, n, c, accumulate) adds tiles [s0, s0 + n) into the `outs` blocks at c;
// done(w, t, c) takes them, and may change them.
template <class F, class G>
void sweep(int64_t weights, int64_t tokens, int64_t steps, int64_t outs, F&& multiply, G&& done,
           bool as_they_lie = false) {
  if (as_they_lie) {  // weights come from memory: all products with a panel of them at once
    auto* c = reinterpret_cast<float*>(scratch(kSweepSlot, outs * 4096));
    for (int64_t w = 0; w < weights; ++w)
      for (int64_t t = 0; t < tokens; ++t) {
        multiply(w, t, int64_t{0}, steps, c, false);
        done(w, t, c);
      }
    return;
  }
  int64_t run = run_of(steps);
  if (run >= steps) {
    auto* c = reinterpret_cast<float*>(scratch(kSweepSlot, outs * 4096));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t w = 0; w < weights; ++w) {
        multiply(w, t, int64_t{0}, steps, c, false);
        done(w, t, c);
      }
    return;
  }
  constexpr int64_t kTokens = 8;  // panels whose sums are held at a time
  auto* sums = reinterpret_cast<float*>(scratch(kSweepSlot, kTokens * weights * outs * 4096));
  auto at = [&](int64_t w, int64_t t) { return sums + (t % kTokens * weights + w) * outs * 1024; };
  for (int64_t first = 0; first < tokens; first += kTokens) {
    int64_t end = std::min(tokens, first + kTokens);
    for (int64_t s0 = 0; s0 < steps; s0 += run)
      for (int64_t t = first; t < end; ++t)
        for (int64_t w = 0; w < weights; ++w)
          multiply(w, t, s0, std::min(run, steps - s0), at(w, t), s0 > 0);
    for (int64_t t = first; t < end; ++t)
      for (int64_t w = 0; w < weights; ++w) done(w, t, at(w, t));
  }
}

// Packs panels [first, first + n) of a weight along or across into scratch. Packed weights are
// unpacked on the way.
char* pack_group(const MicroKernels& mk, int slot, const Tensor& w, bool across, int64_t lines,
                 int64_t p, int64_t first, int64_t n, bool is_b);

// Up to so many panels of tokens (of 32) a product with a weight waits for memory more than for its
// sums: the weight is read as it lies, or packed run by run.
constexpr int64_t kFewTokens = 8;

// Packs tiles [s0, s0 + run) of P of panels [first, first + n) of the columns of W [P, lines]: rows
// are read in order and in long pieces. With at most wide_panels() of them wide_run() tiles stay in
// L2.
void pack_run(const MicroKernels& mk, char* out, const Tensor& w, int64_t s0, int64_t run,
              int64_t lines, int64_t first, int64_t n, bool is_b);
int64_t wide_panels();
int64_t wide_run(int64_t panels);

// Panels [first, first + n) of a weight's rows as the operand A of a sweep over `tokens` panels:
// packed into scratch, or read as they lie where the kernel can and the tokens are few.
struct LinePanels {
  Tiles first;     // of the first panel
  int64_t panel;   // bytes from one to the next
  int64_t tokens;  // panels
  bool as_they_lie, contiguous;
  // Panel i for token panel t, which fetches its share of the next panel.
  Tiles at(int64_t i, int64_t t, int64_t lines, int64_t s0) const;
};
LinePanels line_panels(const MicroKernels& mk, int slot, const Tensor& w, int64_t first, int64_t n,
                       int64_t tokens);

// Whether so many tokens are multiplied by dot products, with no panels.
constexpr int64_t kMostDots = 32;  // mk.few is at most so many
inline bool takes_dots(const MicroKernels& mk, int64_t tokens) {
  return tokens <= std::max<int64_t>(kDecodeTokens, mk.few);
}

// mk.dot() with n_rows <= 4 rows of a weight, `row` and on, each `apart` rows after the one before;
// packed weights are unpacked on the way. More than kDecodeTokens tokens are taken as mk.pack_few()
// leaves them (ldx has no meaning then).
void dot_rows(const MicroKernels& mk, float* out, int64_t ld_out, const Tensor& w, int64_t row,
              int64_t n_rows, int64_t apart, const float* x, int64_t ldx, int64_t n_x);

// Rows [lo, hi) four at a time, a quarter of them apart: fn(row, n_rows, apart). Each of the four
// is then read on and on, which memory gives faster than rows of a few KB here and there.
template <class F>
void in_quarters(int64_t lo, int64_t hi, F&& fn) {
  const int64_t quarter = (hi - lo) / 4;
  for (int64_t i = 0; i < quarter; ++i) fn(lo + i, int64_t{4}, quarter);
  if (const int64_t rest = lo + 4 * quarter; rest < hi) fn(rest, hi - rest, int64_t{1});
}

// x as dot_rows() takes it: f32 rows, rounded as the GEMM rounds its operands, or packed.
std::vector<float> dot_tokens(const MicroKernels& mk, const Tensor& x);

// Words of a token as mk.pack_few() leaves it, and how many of `left` tokens its next group has: a
// group begins where so many tokens before it end.
inline int64_t few_words(const MicroKernels& mk, int64_t k) {
  return ceil_div(k, mk.lanes) * mk.lanes;
}
inline int64_t few_group(const MicroKernels& mk, int64_t left) {
  return left <= mk.group ? left : left == mk.group + 1 ? mk.group - 1 : mk.group;
}

}  // namespace sutor::cpu
