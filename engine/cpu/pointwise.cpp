// Sums, SwiGLU, embedding, row gathers, MLA's key. Sums over duplicate rows run in row order inside
// blocks of columns, so the number of threads changes no bit. Specification:
// engine/ref/pointwise.h; test: tests/kernels/pointwise.cpp.
#include <cstring>

#include "engine/backend.h"
#include "engine/cpu/gemm.h"
#include "engine/cpu/packed.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

// The rows of tensors of one shape, for kernels that don't care where a row ends: contiguous ones
// are cut in equal pieces instead (a vector has no rows to share among threads). fn(pointers.., n).
template <class F, class... T>
void elementwise(F&& fn, const Tensor& y, const T&... in) {
  constexpr int64_t kPiece = 1 << 13;
  check(((in.numel() == y.numel()) && ...),
        "element-wise: an operand of {} has not as many elements", to_string(y.shape));
  if (y.numel() == 0) return;
  if (y.shape.size() <= 1 || (y.contiguous() && (in.contiguous() && ...))) {
    int64_t n = y.numel();
    by_rows((n + kPiece - 1) / kPiece, kPiece, [&](int64_t r) {
      int64_t at = r * kPiece;
      fn(y.f32() + at, (in.f32() + at)..., std::min(kPiece, n - at));
    });
    return;
  }
  check(((in.cols() == y.cols()) && ...), "element-wise: strided rows of {} and of another width",
        to_string(y.shape));
  by_rows(y.rows(), y.cols(), [&](int64_t r) { fn(y.row(r), in.row(r)..., y.cols()); });
}

// fn(lo, n): blocks of columns for sums over rows.
template <class F>
void by_columns(int64_t cols, F&& fn) {
  parallel_for(cols, 64, [&](int64_t lo, int64_t hi) { fn(lo, hi - lo); });
}

void copy_row(float* y, const float* x, int64_t n) { std::memcpy(y, x, n * sizeof(float)); }

}  // namespace

void add_fwd(Ctx&, Tensor y, Tensor a, Tensor b) { elementwise(row_kernels().add, y, a, b); }

void accumulate(Ctx&, Tensor dst, Tensor src, float scale) {
  if (!dst) return;
  const RowKernels& k = row_kernels();
  elementwise([&](float* y, const float* x, int64_t n) { k.axpy(y, x, scale, n); }, dst, src);
}

void swiglu_fwd(Ctx&, Tensor y, Tensor gate, Tensor up) {
  elementwise(row_kernels().swiglu, y, gate, up);
}

void swiglu_bwd(Ctx&, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up) {
  const RowKernels& k = row_kernels();
  if (dgate)
    elementwise([&](float* d, const float* e, const float* g, const float* u,
                    int64_t n) { k.swiglu_grad(d, nullptr, e, g, u, n); },
                dgate, dy, gate, up);
  if (dup)
    elementwise([&](float* d, const float* e, const float* g,
                    int64_t n) { k.swiglu_grad(nullptr, d, e, g, nullptr, n); },
                dup, dy, gate);
}

void embed_fwd(Ctx&, Tensor y, Tensor ids, Tensor w) {
  const int32_t* id = ids.i32();
  for (int64_t t = 0; t < ids.numel(); ++t)
    check(id[t] >= 0 && id[t] < w.dim(0), "token id {} at token {}: the vocabulary has {} ids",
          id[t], t, w.dim(0));
  if (is_packed(w.dtype)) {
    const MicroKernels& mk = micro_kernels(Compute::kF32);
    by_rows(y.rows(), y.cols(), [&](int64_t t) {
      char* to = scratch(kPackedSlot, y.cols() * 4);
      const Rows row = packed_rows(mk, w, id[t], 1, 0, y.cols(), to);
      for (int64_t h = 0; h < y.cols(); ++h)
        y.row(t)[h] = row.dtype == DType::F32 ? reinterpret_cast<const float*>(to)[h]
                                              : float(reinterpret_cast<const bf16*>(to)[h]);
    });
    return;
  }
  visit_float(w.dtype, [&](auto zero) {
    const auto* table = w.as<decltype(zero)>();
    by_rows(y.rows(), y.cols(), [&](int64_t t) {
      const auto* x = table + id[t] * w.ld;
      float* yr = y.row(t);
      for (int64_t h = 0; h < y.cols(); ++h) yr[h] = static_cast<float>(x[h]);
    });
  });
}

void embed_bwd(Ctx& ctx, Tensor dw, Tensor dy, Tensor ids) { gather_bwd(ctx, dw, dy, ids); }

void gather_fwd(Ctx&, Tensor y, Tensor x, Tensor idx) {
  const int32_t* id = idx.i32();
  by_rows(y.rows(), y.cols(), [&](int64_t n) {
    check(id[n] < x.rows(), "gather: row {} of {}", id[n], x.rows());
    if (id[n] < 0)
      std::memset(y.row(n), 0, y.cols() * sizeof(float));
    else
      copy_row(y.row(n), x.row(id[n]), y.cols());
  });
}

void gather_bwd(Ctx&, Tensor dx, Tensor dy, Tensor idx) {
  if (!dx) return;
  const RowKernels& k = row_kernels();
  const int32_t* id = idx.i32();
  for (int64_t n = 0; n < dy.rows(); ++n)
    check(id[n] < dx.rows(), "gather: row {} of {}", id[n], dx.rows());
  by_columns(dy.cols(), [&](int64_t lo, int64_t width) {
    for (int64_t n = 0; n < dy.rows(); ++n)
      if (id[n] >= 0) k.axpy(dx.row(id[n]) + lo, dy.row(n) + lo, 1.0f, width);
  });
}

void mla_key_fwd(Ctx&, Tensor k, Tensor nope, Tensor pe, int heads) {
  int64_t P = nope.cols(), R = pe.cols();
  check(k.cols() == P + R && k.rows() == pe.rows() * heads, "mla_key: {} from {} and {}",
        to_string(k.shape), to_string(nope.shape), to_string(pe.shape));
  by_rows(k.rows(), P + R, [&](int64_t r) {
    copy_row(k.row(r), nope.row(r), P);
    copy_row(k.row(r) + P, pe.row(r / heads), R);
  });
}

void mla_key_bwd(Ctx&, Tensor dnope, Tensor dpe, Tensor dk, int heads) {
  if (!dnope && !dpe) return;
  int64_t P = dnope ? dnope.cols() : dk.cols() - dpe.cols(), R = dk.cols() - P;
  const RowKernels& k = row_kernels();
  by_rows(dk.rows() / heads, dk.cols() * heads, [&](int64_t t) {
    for (int64_t r = t * heads; r < (t + 1) * heads; ++r) {
      if (dnope) k.axpy(dnope.row(r), dk.row(r), 1.0f, P);
      if (dpe) k.axpy(dpe.row(t), dk.row(r) + P, 1.0f, R);
    }
  });
}

}  // namespace sutor::cpu
