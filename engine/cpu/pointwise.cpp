// Sums, SwiGLU, embedding, row gathers, MLA's key. Sums over duplicate rows run in row order inside column blocks, so the number
// of threads never changes them.
#include <cmath>

#include "engine/backend.h"
#include "engine/parallel.h"

namespace sutor::cpu {
namespace {

constexpr int64_t kRows = 16;

template <class F>
void by_rows(int64_t rows, F&& fn) {
  parallel_for(rows, kRows, [&](int64_t lo, int64_t hi) {
    for (int64_t r = lo; r < hi; ++r) fn(r);
  });
}

// Scalars and vectors have one row of numel elements.
int64_t width(const Tensor& t) { return t.shape.size() <= 1 ? t.numel() : t.cols(); }
int64_t height(const Tensor& t) { return t.shape.size() <= 1 ? 1 : t.rows(); }

}  // namespace

void add_fwd(Ctx&, Tensor y, Tensor a, Tensor b) {
  int64_t n = width(y);
  by_rows(height(y), [&](int64_t r) {
    float* o = y.row(r);
    const float *p = a.row(r), *q = b.row(r);
    for (int64_t i = 0; i < n; ++i) o[i] = p[i] + q[i];
  });
}

void accumulate(Ctx&, Tensor dst, Tensor src, float scale) {
  if (!dst) return;
  int64_t n = width(dst);
  by_rows(height(dst), [&](int64_t r) {
    float* o = dst.row(r);
    const float* p = src.row(r);
    for (int64_t i = 0; i < n; ++i) o[i] += scale * p[i];
  });
}

void swiglu_fwd(Ctx&, Tensor y, Tensor gate, Tensor up) {
  int64_t n = y.cols();
  by_rows(y.rows(), [&](int64_t r) {
    float* o = y.row(r);
    const float *g = gate.row(r), *u = up.row(r);
    for (int64_t i = 0; i < n; ++i) o[i] = g[i] / (1.0f + std::exp(-g[i])) * u[i];
  });
}

void swiglu_bwd(Ctx&, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up) {
  int64_t n = dy.cols();
  by_rows(dy.rows(), [&](int64_t r) {
    const float *d = dy.row(r), *g = gate.row(r), *u = up.row(r);
    for (int64_t i = 0; i < n; ++i) {
      float s = 1.0f / (1.0f + std::exp(-g[i]));
      if (dgate) dgate.row(r)[i] += d[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
      if (dup) dup.row(r)[i] += d[i] * g[i] * s;
    }
  });
}

void embed_fwd(Ctx&, Tensor y, Tensor ids, Tensor w) {
  for (int64_t t = 0; t < ids.numel(); ++t)
    check(ids.i32()[t] >= 0 && ids.i32()[t] < w.dim(0), "token id {}: the vocabulary has {} ids", ids.i32()[t], w.dim(0));
  visit_float(w.dtype, [&](auto zero) {
    const auto* p = w.as<decltype(zero)>();
    by_rows(y.rows(), [&](int64_t t) {
      const auto* row = p + ids.i32()[t] * w.ld;
      for (int64_t h = 0; h < y.cols(); ++h) y.row(t)[h] = float(row[h]);
    });
  });
}

void embed_bwd(Ctx&, Tensor dw, Tensor dy, Tensor ids) {
  if (!dw) return;
  parallel_for(dy.cols(), 64, [&](int64_t lo, int64_t hi) {
    for (int64_t t = 0; t < dy.rows(); ++t)
      for (int64_t h = lo; h < hi; ++h) dw.row(ids.i32()[t])[h] += dy.row(t)[h];
  });
}

void gather_fwd(Ctx&, Tensor y, Tensor x, Tensor idx) {
  by_rows(y.rows(), [&](int64_t n) {
    int32_t r = idx.i32()[n];
    for (int64_t h = 0; h < y.cols(); ++h) y.row(n)[h] = r < 0 ? 0.0f : x.row(r)[h];
  });
}

void gather_bwd(Ctx&, Tensor dx, Tensor dy, Tensor idx) {
  if (!dx) return;
  parallel_for(dy.cols(), 64, [&](int64_t lo, int64_t hi) {
    for (int64_t n = 0; n < dy.rows(); ++n) {
      int32_t r = idx.i32()[n];
      if (r < 0) continue;
      for (int64_t h = lo; h < hi; ++h) dx.row(r)[h] += dy.row(n)[h];
    }
  });
}

void mla_key_fwd(Ctx&, Tensor k, Tensor nope, Tensor pe, int heads) {
  int64_t P = nope.cols(), R = pe.cols();
  by_rows(k.rows(), [&](int64_t r) {
    std::copy_n(nope.row(r), P, k.row(r));
    std::copy_n(pe.row(r / heads), R, k.row(r) + P);
  });
}

void mla_key_bwd(Ctx&, Tensor dnope, Tensor dpe, Tensor dk, int heads) {
  int64_t R = dpe ? dpe.cols() : dk.cols() - dnope.cols(), P = dk.cols() - R;
  by_rows(dk.rows() / heads, [&](int64_t t) {
    for (int64_t r = t * heads; r < (t + 1) * heads; ++r) {
      const float* d = dk.row(r);
      if (dnope)
        for (int64_t i = 0; i < P; ++i) dnope.row(r)[i] += d[i];
      if (dpe)
        for (int64_t i = 0; i < R; ++i) dpe.row(t)[i] += d[P + i];
    }
  });
}

}  // namespace sutor::cpu
