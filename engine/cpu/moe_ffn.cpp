// moe_ffn forward on the CPU, first form: the reference on rounded copies.

#include "engine/backend.h"
#include "engine/cpu/moe_simple.h"

namespace sutor::cpu {

void moe_ffn_fwd(Ctx& ctx, Tensor y, Tensor gate, Tensor up, Tensor x, Tensor weight, const MoeIndex& index,
                 const ExpertWeights& w) {
  Simple s(ctx, x, weight, index, w);
  std::vector<float> ys(x.numel()), g(s.pairs * s.inter), u(s.pairs * s.inter);
  ref::moe_ffn_fwd<float>(ys.data(), g.data(), u.data(), s.x.data(), s.weight.data(), s.expert.data(), s.w, s.tokens,
                          s.hidden, s.inter, s.top_k);
  for (int64_t t = 0; t < s.tokens; ++t) std::copy_n(&ys[t * s.hidden], s.hidden, y.row(t));
  for (int64_t p = 0; p < s.pairs; ++p) {
    if (gate) std::copy_n(&g[p * s.inter], s.inter, gate.row(index.where[p]));
    if (up) std::copy_n(&u[p * s.inter], s.inter, up.row(index.where[p]));
  }
}

}  // namespace sutor::cpu
