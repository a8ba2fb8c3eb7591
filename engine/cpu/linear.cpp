// linear on the CPU, first form: the reference on rounded copies.

#include <vector>

#include "engine/backend.h"
#include "engine/ref/linear.h"

namespace sutor::cpu {
namespace {

std::vector<float> dense(const Tensor& t, bool round) {
  std::vector<float> v(t.numel());
  visit_float(t.dtype, [&](auto s) {
    const auto* p = t.as<decltype(s)>();
    for (int64_t r = 0; r < t.rows(); ++r)
      for (int64_t c = 0; c < t.cols(); ++c) {
        float f = p[r * t.ld + c];
        v[r * t.cols() + c] = round ? float(bf16(f)) : f;
      }
  });
  return v;
}

void add(const Tensor& dst, const std::vector<float>& src) {
  for (int64_t r = 0; r < dst.rows(); ++r)
    for (int64_t c = 0; c < dst.cols(); ++c) dst.row(r)[c] += src[r * dst.cols() + c];
}

}  // namespace

void linear_fwd(Ctx& ctx, Tensor y, Tensor x, Tensor w, Tensor b) {
  bool round = ctx.compute == Compute::kBF16;
  auto xs = dense(x, round), ws = dense(w, round);
  std::vector<float> bs = b ? dense(b, false) : std::vector<float>(), ys(y.numel());
  ref::linear_fwd<float>(ys.data(), xs.data(), ws.data(), b ? bs.data() : nullptr, x.rows(), w.dim(0), x.cols());
  for (int64_t t = 0; t < y.rows(); ++t)
    for (int64_t n = 0; n < y.cols(); ++n) y.row(t)[n] = ys[t * y.cols() + n];
}

void linear_bwd(Ctx& ctx, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w) {
  bool round = ctx.compute == Compute::kBF16;
  auto dys = dense(dy, round);
  std::vector<float> xs = x ? dense(x, round) : std::vector<float>(), ws = w ? dense(w, round) : std::vector<float>();
  std::vector<float> gx(dx ? dx.numel() : 0), gw(dw ? dw.numel() : 0), gb(db ? db.numel() : 0);
  ref::linear_bwd<float>(dx ? gx.data() : nullptr, dw ? gw.data() : nullptr, db ? gb.data() : nullptr, dys.data(),
                         xs.data(), ws.data(), dy.rows(), dy.cols(), dx ? dx.cols() : x ? x.cols() : 0);
  if (dx) add(dx, gx);
  if (dw) add(dw, gw);
  if (db) add(db, gb);
}

}  // namespace sutor::cpu
