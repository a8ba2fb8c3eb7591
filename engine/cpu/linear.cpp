// linear: y[T,N] = x[T,K] w[N,K]^T + b[N] as y^T = W x^T (A = rows of W as they lie, B = tokens,
// packed once for all panels); dx += dy W (B = pairs of rows of W), dw += dy^T x (both packed), db
// += column sums. Layout: engine/cpu/gemm.h. Reference: engine/ref/linear.h; test:
// tests/kernels/linear.cpp.

#include "engine/cpu/gemm.h"

namespace sutor::cpu {
namespace {

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
  auto xs = rounded_rows(mk, x);
  parallel_for(ceil_div(n, 16), grain_of(16 * k * tokens), [&](int64_t lo, int64_t hi) {
    float out[kDecodeTokens][4];
    for (int64_t r = lo * 16; r < std::min(n, hi * 16); r += 4) {
      int64_t rows = std::min<int64_t>(4, n - r);
      dot_rows(mk, out[0], 4, w, r, rows, xs.data(), k, tokens);
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < rows; ++i)
          y.row(t)[r + i] = out[t][i] + (bias ? bias[r + i] : 0.0f);
    }
  });
}

}  // namespace

void linear_fwd(Ctx& ctx, Tensor y, Tensor x, Tensor w, Tensor b) {
  check_shapes(y, x, w, "linear");
  const MicroKernels& mk = micro_kernels(ctx.compute);
  int64_t tokens = x.rows(), n = y.cols(), k = x.cols();
  std::vector<float> bias;
  if (b) {
    Tensor f = b.dtype == DType::F32 ? b : cast(b, DType::F32);
    bias.assign(f.f32(), f.f32() + n);
    bias.resize(panels_of(n) * 32);
  }
  if (tokens <= kDecodeTokens) return decode(mk, y, x, w, b ? bias.data() : nullptr);
  Panels xp = pack_along(mk, rows_of(x), tokens, k, true);
  int64_t steps = xp.steps, group = group_of(panels_of(n), steps);
  int64_t grain = grain_of(group * 32 * k * tokens);
  parallel_for(ceil_div(panels_of(n), group), grain, [&](int64_t lo, int64_t hi) {
    for (int64_t unit = lo; unit < hi; ++unit) {
      int64_t first = unit * group, count = std::min(group, panels_of(n) - first);
      const char* wp = pack_group(mk, 0, w, false, n, k, first, count, false);
      sweep(
          count, panels_of(tokens), steps, 1,
          [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
            mk.block(c, tiles(wp + i * xp.bytes(), steps, width(first + i, n), s0),
                     tiles(xp.at(t), steps, width(t, tokens), s0), run, more);
          },
          [&](int64_t i, int64_t t, const float* c) {
            int64_t col = (first + i) * 32;
            mk.store_t(y.row(t * 32) + col, y.ld, c, width(first + i, n), width(t, tokens),
                       b ? &bias[col] : nullptr);
          });
    }
  });
}

void linear_bwd(Ctx& ctx, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w) {
  const MicroKernels& mk = micro_kernels(ctx.compute);
  int64_t tokens = dy.rows(), n = dy.cols();
  if (dx) {
    check_shapes(dy, dx, w, "linear backward");
    int64_t k = dx.cols();
    Panels dyp = pack_along(mk, rows_of(dy), tokens, n, false);
    int64_t steps = dyp.steps, group = group_of(panels_of(k), steps);
    parallel_for(ceil_div(panels_of(k), group), 1, [&](int64_t lo, int64_t hi) {
      for (int64_t unit = lo; unit < hi; ++unit) {
        int64_t first = unit * group, count = std::min(group, panels_of(k) - first);
        const char* wp = pack_group(mk, 0, w, true, k, n, first, count, true);
        sweep(
            count, panels_of(tokens), steps, 1,
            [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
              mk.block(c, tiles(dyp.at(t), steps, width(t, tokens), s0),
                       tiles(wp + i * dyp.bytes(), steps, width(first + i, k), s0), run, more);
            },
            [&](int64_t i, int64_t t, const float* c) {
              mk.store(dx.row(t * 32) + (first + i) * 32, dx.ld, c, width(t, tokens),
                       width(first + i, k), true);
            });
      }
    });
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
