// attention on the CPU, first form: the reference on dense copies.

#include <algorithm>

#include "engine/backend.h"
#include "engine/ref/attention.h"

namespace sutor::cpu {
namespace {

std::vector<float> dense(const Tensor& t) {
  std::vector<float> v(t.numel());
  for (int64_t r = 0; r < t.rows(); ++r) std::copy_n(t.row(r), t.cols(), &v[r * t.cols()]);
  return v;
}

std::vector<int32_t> starts(const Tensor& start, int64_t tq, int64_t tk) {
  std::vector<int32_t> s(tk, 0);
  if (start) std::copy_n(start.i32(), start.numel(), s.data() + (start.numel() == tk ? 0 : tk - tq));
  return s;
}

}  // namespace

void attention_fwd(Ctx&, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, Tensor start, int heads, int kv_heads,
                   float scale) {
  ref::AttentionDims n{q.rows() / heads, k.rows() / kv_heads, heads, kv_heads, q.cols(), v.cols()};
  auto qs = dense(q), ks = dense(k), vs = dense(v);
  std::vector<float> os(o.numel()), ls(q.rows());
  ref::attention_fwd<float>(os.data(), ls.data(), qs.data(), ks.data(), vs.data(), starts(start, n.tq, n.tk).data(), n,
                            scale);
  for (int64_t r = 0; r < o.rows(); ++r) std::copy_n(&os[r * n.dv], n.dv, o.row(r));
  if (lse) std::copy(ls.begin(), ls.end(), lse.f32());
}

void attention_bwd(Ctx&, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor o, Tensor lse, Tensor q, Tensor k,
                   Tensor v, Tensor start, int heads, int kv_heads, float scale) {
  ref::AttentionDims n{q.rows() / heads, k.rows() / kv_heads, heads, kv_heads, q.cols(), v.cols()};
  auto add = [](const Tensor& t, const std::vector<float>& g) {
    for (int64_t r = 0; t && r < t.rows(); ++r)
      for (int64_t c = 0; c < t.cols(); ++c) t.row(r)[c] += g[r * t.cols() + c];
  };
  auto qs = dense(q), ks = dense(k), vs = dense(v), dos = dense(dout), os = dense(o);
  std::vector<float> gq(q.numel()), gk(k.numel()), gv(v.numel());
  ref::attention_bwd<float>(gq.data(), gk.data(), gv.data(), dos.data(), os.data(), lse.f32(), qs.data(), ks.data(),
                            vs.data(), starts(start, n.tq, n.tk).data(), n, scale);
  add(dq, gq);
  add(dk, gk);
  add(dv, gv);
}

}  // namespace sutor::cpu
