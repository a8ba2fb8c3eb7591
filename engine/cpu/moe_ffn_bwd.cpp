// moe_ffn backward on the CPU, first form: the reference on rounded copies.

#include "engine/backend.h"
#include "engine/cpu/moe_simple.h"

namespace sutor::cpu {

void moe_ffn_bwd(Ctx& ctx, Tensor dx, Tensor dweight, ExpertWeights* dw, Tensor dy, Tensor x, Tensor weight,
                 Tensor gate, Tensor up, const MoeIndex& index, const ExpertWeights& w) {
  Simple s(ctx, x, weight, index, w);
  auto add = [](const Tensor& t, const float* g) {
    for (int64_t r = 0; t && r < t.rows(); ++r)
      for (int64_t c = 0; c < t.cols(); ++c) t.row(r)[c] += g[r * t.cols() + c];
  };
  std::vector<float> gs(s.pairs * s.inter), us(s.pairs * s.inter), gx(x.numel()), gw(s.pairs);
  for (int64_t p = 0; p < s.pairs; ++p) {
    std::copy_n(gate.row(index.where[p]), s.inter, &gs[p * s.inter]);
    std::copy_n(up.row(index.where[p]), s.inter, &us[p * s.inter]);
  }
  std::list<std::vector<float>> keep;
  ref::Experts<float> d;
  auto zero = [&](const std::vector<Tensor>& v, std::vector<float*>& out) {
    for (const Tensor& t : v) out.push_back(t ? keep.emplace_back(t.numel()).data() : nullptr);
  };
  if (dw) zero(dw->gate, d.gate), zero(dw->up, d.up), zero(dw->down, d.down);
  auto dys = simple_dense(dy, s.round);
  ref::moe_ffn_bwd<float>(gx.data(), gw.data(), dw ? &d : nullptr, dys.data(), s.x.data(), s.weight.data(), gs.data(),
                          us.data(), s.expert.data(), s.w, s.tokens, s.hidden, s.inter, s.top_k);
  add(dx, gx.data());
  add(dweight, gw.data());
  for (size_t e = 0; dw && e < dw->gate.size(); ++e) {
    add(dw->gate[e], d.gate[e]);
    add(dw->up[e], d.up[e]);
    add(dw->down[e], d.down[e]);
  }
}

}  // namespace sutor::cpu
