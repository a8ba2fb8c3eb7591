// linear: y[T,N] = x[T,K] w[N,K]^T + b[N] as y^T = W x^T (A = rows of W as they lie, B = tokens,
// packed once for all panels); dx += dy W (B = pairs of rows of W), dw += dy^T x (both packed), db
// += column sums. Layout: engine/cpu/gemm.h. Reference: engine/ref/linear.h; test:
// tests/kernels/linear.cpp.
// lora_linear (arXiv 2106.09685): low = scale drop(x) A^T first; its product with B goes into the
// same sums as W's, and backward adds drop'(dlow A) to a block of dx before it is stored. dy is
// packed once for dlow and dx; drop(x) exists only in L1. Test: tests/kernels/lora_linear.cpp.

#include "engine/cpu/columns.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

enum Slot { kWeights, kFactor, kMasked };  // of scratch()

int64_t width(int64_t panel, int64_t lines) { return std::min<int64_t>(32, lines - panel * 32); }

void check_shapes(const Tensor& y, const Tensor& x, const Tensor& w, const char* who) {
  if (w.shape.size() != 2 || y.cols() != w.dim(0) || x.cols() != w.dim(1) || x.rows() != y.rows())
      [[unlikely]]  // not check(): its arguments would be built on every call
    fail("{}: y {} = x {} times w {} transposed", who, to_string(y.shape), to_string(x.shape),
         to_string(w.shape));
}

void decode(const MicroKernels& mk, const Tensor& y, const Tensor& x, const Tensor& w,
            const float* bias) {
  int64_t tokens = y.rows(), n = y.cols(), k = x.cols();
  if (tokens == 0) return;
  auto xs = dot_tokens(mk, x);
  const int64_t grain = std::max(grain_of(16 * k * tokens), ceil_div(n, 32 * num_threads()));
  parallel_for(ceil_div(n, 16), grain, [&](int64_t lo, int64_t hi) {
    if (tokens > kDecodeTokens) {  // bound by arithmetic: rows in their order
      const int64_t end = std::min(n, hi * 16);
      for (int64_t r = lo * 16; r < end; r += 4)
        dot_rows(mk, y.row(0) + r, y.ld, w, r, std::min<int64_t>(4, end - r), 1, xs.data(), k,
                 tokens);
      for (int64_t t = 0; bias && t < tokens; ++t)
        mk.axpy(y.row(t) + lo * 16, bias + lo * 16, 1.0f, end - lo * 16);
      return;
    }
    float out[kDecodeTokens][4];
    in_quarters(lo * 16, std::min(n, hi * 16), [&](int64_t r, int64_t rows, int64_t apart) {
      dot_rows(mk, out[0], 4, w, r, rows, apart, xs.data(), k, tokens);
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < rows; ++i)
          y.row(t)[r + i * apart] = out[t][i] + (bias ? bias[r + i * apart] : 0.0f);
    });
  });
}

// The LoRA beside a product: packed tokens of the low side, and the factor they meet.
struct LowTerm {
  const Panels& tokens;
  Tensor factor;
  int64_t rank;
};

// y = x w^T + bias, and + low up^T (`lora`) into the same sums.
void forward(const MicroKernels& mk, const Tensor& y, const Panels& xp, const Tensor& w, int64_t k,
             const float* bias, const LowTerm* lora) {
  int64_t tokens = y.rows(), n = y.cols();
  int64_t steps = xp.steps, group = group_of(panels_of(n), steps);
  int64_t grain = grain_of(group * 32 * k * tokens);
  parallel_for(ceil_div(panels_of(n), group), grain, [&](int64_t lo, int64_t hi) {
    for (int64_t unit = lo; unit < hi; ++unit) {
      int64_t first = unit * group, count = std::min(group, panels_of(n) - first);
      LinePanels wp = line_panels(mk, kWeights, w, first, count, panels_of(tokens));
      const char* up =
          lora ? pack_group(mk, kFactor, lora->factor, false, n, lora->rank, first, count, false)
               : nullptr;
      sweep(
          count, panels_of(tokens), steps, 1,
          [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
            mk.block(c, wp.at(i, t, width(first + i, n), s0),
                     tiles(xp.at(t), steps, width(t, tokens), s0), run, more);
          },
          [&](int64_t i, int64_t t, float* c) {
            int64_t col = (first + i) * 32;
            if (lora) {
              const Panels& low = lora->tokens;
              mk.block(c, tiles(up + i * low.bytes(), low.steps, width(first + i, n)),
                       tiles(low.at(t), low.steps, width(t, tokens)), low.steps, true);
            }
            mk.store_t(y.row(t * 32) + col, y.ld, c, width(first + i, n), width(t, tokens),
                       bias ? bias + col : nullptr);
          },
          wp.as_they_lie);
    }
  });
}

// dx += dy w, and + drop'(dlow a) (`lora`).
void backward_x(const MicroKernels& mk, const Tensor& dx, const Panels& dyp, const Tensor& w,
                const LowTerm* lora, const Dropout& drop) {
  int64_t tokens = dx.rows(), k = dx.cols();
  if (tokens == 0) return;  // a rank that works for the others' tokens alone
  int64_t steps = dyp.steps, group = group_of(panels_of(k), steps);
  if (panels_of(tokens) <= kFewTokens) group = std::max(group, wide_of(panels_of(k), 1));
  const RowKernels& rows = row_kernels();
  const DropoutConstants mask = dropout_constants(drop);
  parallel_for(ceil_div(panels_of(k), group), 1, [&](int64_t lo, int64_t hi) {
    alignas(64) float more[1024];
    for (int64_t unit = lo; unit < hi; ++unit) {
      int64_t first = unit * group, count = std::min(group, panels_of(k) - first);
      const char* ap =
          lora ? pack_group(mk, kFactor, lora->factor, true, k, lora->rank, first, count, true)
               : nullptr;
      sweep_columns(
          mk, {&w}, k, first, count, tokens,
          [&](int64_t, int64_t t, int64_t s0) {
            return tiles(dyp.at(t), steps, width(t, tokens), s0);
          },
          [&](int64_t i, int64_t t, float* c) {
            int64_t col = (first + i) * 32, cols = width(first + i, k), lines = width(t, tokens);
            if (lora) {
              const Panels& low = lora->tokens;
              mk.block(drop.p == 0 ? c : more, tiles(low.at(t), low.steps, lines),
                       tiles(ap + i * low.bytes(), low.steps, cols), low.steps, drop.p == 0);
              for (int64_t r = 0; drop.p != 0 && r < lines; ++r)
                rows.dropout(c + r * 32, more + r * 32, mask, (t * 32 + r) * k + col, cols, true);
            }
            mk.store(dx.row(t * 32) + col, dx.ld, c, lines, cols, true);
          });
    }
  });
}

// A product with few lines on one side, packed before: done(i, j, c) takes the block of panel i of
// `many` and panel j of `few`, whose rows are the lines of `a`.
enum class Rows32 { kMany, kFew };
template <class G>
void narrow(const MicroKernels& mk, Rows32 a, const Panels& many, int64_t lines, const Panels& few,
            int64_t few_lines, G&& done) {
  int64_t steps = many.steps, run = run_of(steps), count = panels_of(few_lines);
  int64_t grain = grain_of(32 * few_lines * steps * mk.step);
  parallel_for(panels_of(lines), grain, [&](int64_t lo, int64_t hi) {
    auto* c = reinterpret_cast<float*>(scratch(kSweepSlot, count * 4096));
    for (int64_t i = lo; i < hi; ++i) {
      for (int64_t s0 = 0; s0 < steps; s0 += run)
        for (int64_t j = 0; j < count; ++j) {
          Tiles m = tiles(many.at(i), steps, width(i, lines), s0),
                f = tiles(few.at(j), steps, width(j, few_lines), s0);
          mk.block(c + j * 1024, a == Rows32::kMany ? m : f, a == Rows32::kMany ? f : m,
                   std::min(run, steps - s0), s0 > 0);
        }
      for (int64_t j = 0; j < count; ++j) done(i, j, c + j * 1024);
    }
  });
}

void transpose_block(float* c) {
  for (int i = 0; i < 32; ++i)
    for (int j = 0; j < i; ++j) std::swap(c[i * 32 + j], c[j * 32 + i]);
}

constexpr int64_t kPiece = 256;  // columns of x that are masked at a time: they stay in L1

// Panels of drop(x), lines = tokens (B) or = columns (B, P = tokens).
Panels pack_dropped(const MicroKernels& mk, const Tensor& x, const Dropout& drop, bool across) {
  int64_t tokens = x.rows(), k = x.cols(), lines = across ? mk.step : 32;
  if (drop.p == 0)
    return across ? pack_across(mk, rows_of(x), k, tokens, true)
                  : pack_along(mk, rows_of(x), tokens, k, true);
  const RowKernels& rows = row_kernels();
  const DropoutConstants mask = dropout_constants(drop);
  Panels out =
      across ? make_panels(mk, panels_of(k), tokens) : make_panels(mk, panels_of(tokens), k);
  parallel_for(ceil_div(tokens, lines), 1, [&](int64_t lo, int64_t hi) {
    auto* piece = reinterpret_cast<float*>(scratch(kMasked, lines * kPiece * 4));
    Rows src{piece, DType::F32, kPiece, nullptr};
    for (int64_t i = lo; i < hi; ++i)
      for (int64_t c = 0; c < k; c += kPiece) {
        int64_t first = i * lines, count = std::min(lines, tokens - first),
                cols = std::min(kPiece, k - c);
        for (int64_t r = 0; r < count; ++r)
          rows.dropout(piece + r * kPiece, x.row(first + r) + c, mask, (first + r) * k + c, cols,
                       false);
        if (!across) {
          mk.pack_along(out.at(i) + c / mk.step * 1024, src, 0, count, cols, 0, steps_of(mk, cols),
                        out.steps, true);
          continue;
        }
        for (int64_t j = 0; j < panels_of(cols); ++j)
          mk.pack_across(out.at(c / 32 + j) + i * 1024, src, j * 32, width(j, cols), count, 0, 1,
                         out.steps, true);
      }
  });
  return out;
}

std::vector<float> bias_of(const Tensor& b) {
  if (!b) return {};
  Tensor f = b.dtype == DType::F32 ? b : cast(b, DType::F32);
  std::vector<float> bias(f.f32(), f.f32() + f.numel());
  bias.resize(panels_of(f.numel()) * 32);
  return bias;
}

void scale_rows(const Tensor& t, float scale) {
  for (int64_t r = 0; r < t.rows(); ++r) row_kernels().scale(t.row(r), scale, t.cols());
}

}  // namespace

void linear_fwd(Ctx& ctx, Tensor y, Tensor x, Tensor w, Tensor b) {
  check_shapes(y, x, w, "linear");
  const MicroKernels& mk = micro_kernels(ctx.compute);
  std::vector<float> bias = bias_of(b);
  const float* at = b ? bias.data() : nullptr;
  if (takes_dots(mk, x.rows())) return decode(mk, y, x, w, at);
  Panels xp = pack_along(mk, rows_of(x), x.rows(), x.cols(), true);
  forward(mk, y, xp, w, x.cols(), at, nullptr);
}

void lora_linear_fwd(Ctx& ctx, Tensor y, Tensor low, Tensor x, Tensor w, Tensor b, Tensor a,
                     Tensor up, float scale, Dropout drop) {
  check_shapes(y, x, w, "linear");
  check_shapes(low, x, a, "LoRA");
  check_shapes(y, low, up, "LoRA");
  const MicroKernels& mk = micro_kernels(ctx.compute);
  int64_t tokens = x.rows(), k = x.cols(), rank = low.cols();
  std::vector<float> bias = bias_of(b);
  const float* at = b ? bias.data() : nullptr;
  if (takes_dots(mk, tokens)) {
    Tensor dropped = drop.p == 0 ? x : empty(x.shape), more = empty(y.shape);
    if (drop.p != 0) dropout_fwd(ctx, dropped, x, drop);
    decode(mk, low, dropped, a, nullptr);
    scale_rows(low, scale);
    decode(mk, more, low, up, nullptr);
    decode(mk, y, x, w, at);
    return accumulate(ctx, y, more, 1.0f);
  }
  {
    Panels ap = pack_along(mk, rows_of(a), rank, k, false),
           dropped = pack_dropped(mk, x, drop, false);
    narrow(mk, Rows32::kFew, dropped, tokens, ap, rank, [&](int64_t t, int64_t j, const float* c) {
      mk.store_t(low.row(t * 32) + j * 32, low.ld, c, width(j, rank), width(t, tokens), nullptr);
    });
  }
  scale_rows(low, scale);
  Panels lp = pack_along(mk, rows_of(low), tokens, rank, true),
         xp = pack_along(mk, rows_of(x), tokens, k, true);
  LowTerm lora{lp, up, rank};
  forward(mk, y, xp, w, k, at, &lora);
}

void lora_linear_bwd(Ctx& ctx, Tensor dx, Tensor dw, Tensor db, Tensor da, Tensor dup, Tensor dy,
                     Tensor x, Tensor w, Tensor low, Tensor a, Tensor up, float scale,
                     Dropout drop) {
  const MicroKernels& mk = micro_kernels(ctx.compute);
  int64_t tokens = dy.rows(), n = dy.cols(), rank = low.cols(), k = a.cols();
  if (dw || db) linear_bwd(ctx, {}, dw, db, dy, x, w);
  if (dup) {  // as dup^T = low^T dy: the large operand needs no transposing while it is packed
    Panels dyp = pack_across(mk, rows_of(dy), n, tokens, true),
           lp = pack_across(mk, rows_of(low), rank, tokens, false);
    narrow(mk, Rows32::kFew, dyp, n, lp, rank, [&](int64_t i, int64_t j, float* c) {
      transpose_block(c);
      mk.store(dup.row(i * 32) + j * 32, dup.ld, c, width(i, n), width(j, rank), true);
    });
  }
  if (!dx && !da) return;
  Tensor dlow = empty({tokens, rank});
  Panels dyp = pack_along(mk, rows_of(dy), tokens, n, false);
  {
    Panels factor = pack_across(mk, rows_of(up), rank, n, true);
    narrow(mk, Rows32::kMany, dyp, tokens, factor, rank, [&](int64_t t, int64_t j, const float* c) {
      mk.store(dlow.row(t * 32) + j * 32, dlow.ld, c, width(t, tokens), width(j, rank), false);
    });
  }
  scale_rows(dlow, scale);
  if (dx) {
    check_shapes(dy, dx, w, "linear backward");
    Panels lp = pack_along(mk, rows_of(dlow), tokens, rank, false);
    LowTerm lora{lp, a, rank};
    backward_x(mk, dx, dyp, w, &lora, drop);
  }
  if (!da) return;
  dyp = {};
  Panels lp = pack_across(mk, rows_of(dlow), rank, tokens, false),
         dropped = pack_dropped(mk, x, drop, true);
  narrow(mk, Rows32::kFew, dropped, k, lp, rank, [&](int64_t i, int64_t j, const float* c) {
    mk.store(da.row(j * 32) + i * 32, da.ld, c, width(j, rank), width(i, k), true);
  });
}

void linear_bwd(Ctx& ctx, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w) {
  const MicroKernels& mk = micro_kernels(ctx.compute);
  int64_t tokens = dy.rows(), n = dy.cols();
  if (dx) {
    check_shapes(dy, dx, w, "linear backward");
    Panels dyp = pack_along(mk, rows_of(dy), tokens, n, false);
    backward_x(mk, dx, dyp, w, nullptr, {});
  }
  if (dw) {
    check(dw.shape.size() == 2 && dw.dim(0) == n && dw.dim(1) == x.cols() && x.rows() == tokens,
          "linear backward: dw {} = dy {} transposed times x {}", to_string(dw.shape),
          to_string(dy.shape), to_string(x.shape));
    int64_t k = x.cols();
    Panels dyp = pack_across(mk, rows_of(dy), n, tokens, false),
           xp = pack_across(mk, rows_of(x), k, tokens, true);
    int64_t steps = dyp.steps, group = group_of(panels_of(n), steps);
    parallel_for(ceil_div(panels_of(n), group), 1, [&](int64_t lo, int64_t hi) {
      for (int64_t unit = lo; unit < hi; ++unit) {
        int64_t first = unit * group, count = std::min(group, panels_of(n) - first);
        sweep(
            count, panels_of(k), steps, 1,
            [&](int64_t i, int64_t j, int64_t s0, int64_t run, float* c, bool more) {
              mk.block(c, tiles(dyp.at(first + i), steps, width(first + i, n), s0),
                       tiles(xp.at(j), steps, width(j, k), s0), run, more);
            },
            [&](int64_t i, int64_t j, const float* c) {
              mk.store(dw.row((first + i) * 32) + j * 32, dw.ld, c, width(first + i, n),
                       width(j, k), true);
            });
      }
    });
  }
  if (db) {
    parallel_for(n, 64, [&](int64_t lo, int64_t hi) {
      for (int64_t t = 0; t < tokens; ++t) mk.axpy(db.f32() + lo, dy.row(t) + lo, 1.0f, hi - lo);
    });
  }
}

}  // namespace sutor::cpu
