#pragma once
#include <algorithm>
#include <list>

#include "engine/backend.h"
#include "engine/ref/moe_ffn.h"

namespace sutor::cpu {

inline std::vector<float> simple_dense(const Tensor& t, bool round) {
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

struct Simple {
  int64_t tokens, hidden, inter = 0, top_k, pairs;
  bool round;
  std::vector<float> x, weight;
  std::vector<int32_t> expert;
  std::list<std::vector<float>> keep;
  ref::Experts<float> w;

  float* own(const Tensor& t) { return keep.emplace_back(simple_dense(t, round)).data(); }
  Simple(Ctx& ctx, const Tensor& xt, const Tensor& wt, const MoeIndex& index, const ExpertWeights& ws)
      : tokens(xt.rows()), hidden(xt.cols()), top_k(index.top_k), pairs(tokens * top_k),
        round(ctx.compute == Compute::kBF16), x(simple_dense(xt, round)), weight(simple_dense(wt, false)), expert(pairs) {
    for (size_t e = 0; e + 1 < index.offset.size(); ++e) {
      for (int32_t i = index.offset[e]; i < index.offset[e + 1]; ++i) expert[index.pair[i]] = static_cast<int32_t>(e);
      w.gate.push_back(own(ws.gate[e]));
      w.up.push_back(own(ws.up[e]));
      w.down.push_back(own(ws.down[e]));
      inter = ws.gate[e].dim(0);
    }
  }
};

}  // namespace sutor::cpu
