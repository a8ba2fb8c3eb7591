// NF4 weights in the matrix kernels: bit for bit what the same kernels make of the unpacked weight,
// with every instruction set, for widths at which blocks cross rows and rows end inside a byte.

#include "engine/quant.h"
#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

namespace {

Tensor packed(Random& rnd, int64_t rows, int64_t cols, DType as) {
  Tensor w = rnd.tensor(rows, cols, as);
  return nf4_tensor(pack_nf4(w), w.shape, as);
}

bool same(const Tensor& a, const Tensor& b) { return doubles(a) == doubles(b); }

}  // namespace

TEST_CASE("nf4: linear reads packed weights as unpacked ones") {
  for (auto p : problems::kLinear)
    for (DType as : {DType::BF16, DType::F32, DType::F16}) {
      if (p.tokens * p.n * p.k > 1000000 && as != DType::BF16) continue;
      CAPTURE(p.tokens);
      CAPTURE(p.n);
      CAPTURE(p.k);
      CAPTURE(name_of(as));
      Random rnd(3);
      Tensor q = packed(rnd, p.n, p.k, as), w = unpacked(q), x = rnd.tensor(p.tokens, p.k),
             dy = rnd.tensor(p.tokens, p.n);
      for_each_isa([&](Ctx& ctx, Compute) {
        Tensor y = empty({p.tokens, p.n}), want = empty(y.shape);
        cpu::linear_fwd(ctx, y, x, q, {});
        cpu::linear_fwd(ctx, want, x, w, {});
        CHECK(same(y, want));
        Tensor dx = zeros({p.tokens, p.k}), dx_want = zeros(dx.shape);
        cpu::linear_bwd(ctx, dx, {}, {}, dy, {}, q);
        cpu::linear_bwd(ctx, dx_want, {}, {}, dy, {}, w);
        CHECK(same(dx, dx_want));
      });
    }
}

TEST_CASE("nf4: experts read packed weights as unpacked ones") {
  for (auto p : problems::kMoe) {
    CAPTURE(p.tokens);
    CAPTURE(p.hidden);
    CAPTURE(p.inter);
    Random rnd(5);
    ExpertWeights q, w;
    for (int64_t e = 0; e < p.experts; ++e) {
      q.gate.push_back(packed(rnd, p.inter, p.hidden, DType::BF16));
      q.up.push_back(packed(rnd, p.inter, p.hidden, DType::BF16));
      q.down.push_back(packed(rnd, p.hidden, p.inter, DType::BF16));
      w.gate.push_back(unpacked(q.gate.back()));
      w.up.push_back(unpacked(q.up.back()));
      w.down.push_back(unpacked(q.down.back()));
    }
    Tensor expert = empty({p.tokens, p.top_k}, DType::I32);
    for (int64_t i = 0; i < expert.numel(); ++i)
      expert.i32()[i] = p.routing == problems::Routing::kOneExpert
                            ? 0
                            : static_cast<int32_t>((i * 7 + i / 3) % p.experts);
    MoeIndex index = sort_by_expert(expert, static_cast<int>(p.experts));
    Tensor x = rnd.tensor(p.tokens, p.hidden), weight = rnd.tensor(p.tokens, p.top_k),
           dy = rnd.tensor(p.tokens, p.hidden);
    for_each_isa([&](Ctx& ctx, Compute) {
      auto run = [&](const ExpertWeights& weights) {
        Tensor y = empty(x.shape), gate = empty({p.tokens * p.top_k, p.inter}),
               up = empty(gate.shape), dx = zeros(x.shape), dweight = zeros(weight.shape);
        cpu::moe_ffn_fwd(ctx, y, gate, up, x, weight, index, weights);
        cpu::moe_ffn_bwd(ctx, dx, dweight, nullptr, dy, x, weight, gate, up, index, weights);
        return std::vector<Tensor>{y, gate, up, dx, dweight};
      };
      std::vector<Tensor> got = run(q), want = run(w);
      for (size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], want[i]));
    });
  }
}

}  // namespace sutor
