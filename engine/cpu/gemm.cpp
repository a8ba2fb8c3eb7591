// Packing loops shared by the matrix kernels. Layout of panels: engine/cpu/micro_table.h.

#include "engine/cpu/gemm.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "engine/cpu/packed.h"

namespace sutor::cpu {

char* scratch(int slot, int64_t bytes) {
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<char, Free> memory[8];
  thread_local int64_t size[8] = {};
  if (size[slot] < bytes) {
    memory[slot].reset();
    memory[slot].reset(static_cast<char*>(std::aligned_alloc(64, ceil_div(bytes, 64) * 64)));
    check(memory[slot] != nullptr, "out of memory: {} bytes of scratch", bytes);
    size[slot] = bytes;
  }
  return memory[slot].get();
}

Panels make_panels(const MicroKernels& mk, int64_t count, int64_t p) {
  Panels out;
  out.steps = steps_of(mk, p);
  out.memory = empty({count * out.bytes()}, DType::U8);
  return out;
}

// Packing an element takes about as long as so many multiply-adds.
constexpr int64_t kPackWork = 16;

Panels pack_along(const MicroKernels& mk, const Rows& src, int64_t lines, int64_t p, bool is_b) {
  Panels out = make_panels(mk, panels_of(lines), p);
  parallel_for(panels_of(lines), grain_of(32 * p * kPackWork), [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i)
      mk.pack_along(out.at(i), src, i * 32, std::min<int64_t>(32, lines - i * 32), p, 0, out.steps,
                    out.steps, is_b);
  });
  return out;
}

Panels pack_across(const MicroKernels& mk, const Rows& src, int64_t lines, int64_t p, bool is_b) {
  Panels out = make_panels(mk, panels_of(lines), p);
  // Units are steps: all panels of a few source rows, so that rows are read whole.
  parallel_for(out.steps, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t s = lo; s < hi; ++s)
      for (int64_t i = 0; i < panels_of(lines); ++i)
        mk.pack_across(out.at(i), src, i * 32, std::min<int64_t>(32, lines - i * 32), p, s, s + 1,
                       out.steps, is_b);
  });
  return out;
}

namespace {
int64_t l2_bytes() {
  static const int64_t bytes = [] {
    int64_t b = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return std::clamp<int64_t>(b, 256 << 10, 2 << 20);  // 0 where the system does not know
  }();
  return bytes;
}
}  // namespace

int64_t run_of(int64_t steps) {
  int64_t most = l2_bytes() / 8 / 2048;
  return ceil_div(steps, std::max<int64_t>(1, ceil_div(steps, most)));
}

int64_t group_of(int64_t panels, int64_t steps, int64_t products, int64_t sharers) {
  int64_t bytes = run_of(steps) * 2048 * products;
  int64_t fits = std::max<int64_t>(1, l2_bytes() / 2 / std::max<int64_t>(1, bytes));
  int64_t fair = std::max<int64_t>(1, ceil_div(panels * sharers, 3 * num_threads()));
  return std::min({fits, fair, int64_t{16}, panels});
}

namespace {

// Packed weights along, through pieces that stay in L1.
void unpack_along(const MicroKernels& mk, char* out, const Tensor& w, int64_t lines, int64_t p,
                  int64_t first, int64_t n, bool is_b) {
  constexpr int64_t kPiece = 256;  // of P, whole blocks where rows are
  int64_t steps = steps_of(mk, p);
  char* piece = scratch(kPackedSlot, 32 * kPiece * 4);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < p; k += kPiece) {
      int64_t part = std::min(kPiece, p - k), from = (first + i) * 32,
              count = std::min<int64_t>(32, lines - from);
      Rows rows = packed_rows(mk, w, from, count, k, part, piece);
      mk.pack_along(out + (i * steps * 2 + k / mk.step) * 1024, rows, 0, count, part, 0,
                    steps_of(mk, part), steps, is_b);
    }
}

}  // namespace

char* pack_group(const MicroKernels& mk, int slot, const Tensor& weight, bool across, int64_t lines,
                 int64_t p, int64_t first, int64_t n, bool is_b) {
  int64_t steps = steps_of(mk, p);
  char* out = scratch(slot, n * steps * 2048);
  if (across) {
    pack_run(mk, out, weight, 0, steps, lines, first, n, is_b);
  } else if (is_packed(weight.dtype)) {
    unpack_along(mk, out, weight, lines, p, first, n, is_b);
  } else {
    for (int64_t i = 0; i < n; ++i)
      mk.pack_along(out + i * steps * 2048, rows_of(weight), (first + i) * 32,
                    std::min<int64_t>(32, lines - (first + i) * 32), p, 0, steps, steps, is_b);
  }
  return out;
}

namespace {
constexpr int64_t kLeastRun = 4;  // below it sums are moved more than multiplied
}  // namespace

int64_t wide_panels() { return l2_bytes() / 2 / 2048 / kLeastRun; }

int64_t wide_run(int64_t panels) {
  return std::clamp<int64_t>(l2_bytes() / 2 / 2048 / panels, kLeastRun, 16);
}

void pack_run(const MicroKernels& mk, char* out, const Tensor& w, int64_t s0, int64_t run,
              int64_t lines, int64_t first, int64_t n, bool is_b) {
  const int64_t from = first * 32, cols = std::min(lines - from, n * 32), end = w.dim(0);
  Rows rows = rows_of(w);
  char* piece = is_packed(w.dtype) ? scratch(kPackedSlot, mk.step * n * 32 * 4) : nullptr;
  for (int64_t s = 0; s < run; ++s) {  // rows in order, each read whole
    const int64_t row = (s0 + s) * mk.step, part = std::min<int64_t>(mk.step, end - row);
    if (piece)
      rows = packed_rows(mk, w, row, part, from, cols, piece);
    else
      rows.data = w.data + (row * w.ld + from) * size_of(w.dtype);
    for (int64_t i = 0; i < n; ++i)
      mk.pack_across(out + (i * run * 2 + s) * 1024, rows, i * 32,
                     std::min<int64_t>(32, cols - i * 32), part, 0, 1, run, is_b);
  }
}

Tiles LinePanels::at(int64_t i, int64_t t, int64_t lines, int64_t s0) const {
  Tiles x = first;
  x.at = static_cast<const char*>(first.at) + i * panel + s0 * x.next;
  x.lines = static_cast<int>(lines);
  // With one panel of tokens memory is read as fast as it can be. What is fetched is contiguous.
  if (as_they_lie && tokens > 1 && contiguous) {
    x.fetch_lines = static_cast<int>(ceil_div(32, tokens));
    x.fetch = static_cast<const char*>(x.at) + panel + t * x.fetch_lines * x.row;
  }
  return x;
}

LinePanels line_panels(const MicroKernels& mk, int slot, const Tensor& w, int64_t first, int64_t n,
                       int64_t tokens) {
  int64_t lines = w.dim(0), p = w.cols(), steps = steps_of(mk, p), row = w.ld * 2;
  if (mk.reads_rows && tokens <= kFewTokens && w.dtype == DType::BF16 && lines % 16 == 0 &&
      p % mk.step == 0)
    return {{w.data + first * 32 * row, 16 * row, 32, row, 64}, 32 * row, tokens, true, w.ld == p};
  return {tiles(pack_group(mk, slot, w, false, lines, p, first, n, false), steps), steps * 2048,
          tokens, false, false};
}

void dot_rows(const MicroKernels& mk, float* out, int64_t ld_out, const Tensor& w, int64_t row,
              int64_t n_rows, int64_t apart, const float* x, int64_t ldx, int64_t n_x) {
  int64_t k = w.cols();
  if (is_packed(w.dtype)) {
    packed_dot(mk, out, ld_out, w, row, n_rows, apart, x, ldx, n_x,
               scratch(kPackedSlot, 4 * k * 4));
    return;
  }
  Rows rows = rows_of(w);
  rows.data = w.data + row * w.ld * size_of(w.dtype);
  rows.ld = apart * w.ld;
  const int64_t next = apart == 1 ? 4 * w.ld : w.ld;
  if (n_x > kDecodeTokens)
    mk.few_dots(out, ld_out, rows, 0, n_rows, x, n_x, k, next);
  else
    mk.dot(out, ld_out, rows, 0, n_rows, x, ldx, n_x, k, next);
}

std::vector<float> dot_tokens(const MicroKernels& mk, const Tensor& x) {
  if (x.rows() > kDecodeTokens) {
    std::vector<float> out(x.rows() * few_words(mk, x.cols()));
    mk.pack_few(out.data(), rows_of(x), 0, x.rows(), x.cols());
    return out;
  }
  std::vector<float> out(x.numel());
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 0; c < x.cols(); ++c) {
      float f = x.row(r)[c];
      out[r * x.cols() + c] = mk.rounds ? float(bf16(f)) : f;
    }
  return out;
}

}  // namespace sutor::cpu
