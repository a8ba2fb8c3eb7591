// moe_ffn against engine/ref/moe_ffn.h: every instruction set, weight type, routing (empty expert,
// all on one, T = 1, K = 1); gradients of the reference by complex step; frozen experts and
// unwanted outputs; thread counts. The complex-step test failed with silu' = s (1 - g (1 - s))
// before it passed.

#include "engine/ref/moe_ffn.h"

#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

namespace {

struct Layer {
  problems::Moe p;
  Tensor x, weight, expert, dy;
  ExpertWeights w;
  MoeIndex index;

  Layer(problems::Moe m, DType dtype, uint32_t seed = 5) : p(m) {
    Random rnd(seed);
    x = rnd.tensor(p.tokens, p.hidden, DType::F32, 1, 3);
    dy = rnd.tensor(p.tokens, p.hidden, DType::F32, 1, 1);
    weight = rnd.tensor(p.tokens, p.top_k);
    for (int64_t e = 0; e < p.experts; ++e) {
      w.gate.push_back(rnd.tensor(p.inter, p.hidden, dtype, 0.3f, e % 2));
      w.up.push_back(rnd.tensor(p.inter, p.hidden, dtype, 0.3f));
      w.down.push_back(rnd.tensor(p.hidden, p.inter, dtype, 0.3f, 2));
    }
    expert = empty({p.tokens, p.top_k}, DType::I32);
    for (int64_t t = 0; t < p.tokens; ++t)
      for (int64_t k = 0; k < p.top_k; ++k)
        expert.i32()[t * p.top_k + k] = static_cast<int32_t>(problems::expert_of(p, t, k));
    index = sort_by_expert(expert, static_cast<int>(p.experts));
  }
  Tensor by_pair(const Tensor& sorted) const {
    Tensor out = empty({sorted.rows(), sorted.cols()});
    for (int64_t i = 0; i < sorted.rows(); ++i)
      std::copy_n(sorted.row(index.where[i]), sorted.cols(), out.row(i));
    return out;
  }
};

template <class T>
struct RefExperts {
  std::vector<std::vector<T>> keep;
  ref::Experts<T> table;
  RefExperts(const ExpertWeights& w, bool round) {
    keep.reserve(3 * w.gate.size());
    auto add = [&](const std::vector<Tensor>& from, std::vector<T*>& to) {
      for (const Tensor& t : from) {
        Doubles d = t ? doubles(t, round) : Doubles();
        keep.emplace_back(d.begin(), d.end());
        to.push_back(t ? keep.back().data() : nullptr);
      }
    };
    add(w.gate, table.gate);
    add(w.up, table.up);
    add(w.down, table.down);
  }
};

ExpertWeights gradients(const ExpertWeights& w, int frozen_every, Random& rnd) {
  ExpertWeights d;
  for (size_t e = 0; e < w.gate.size(); ++e) {
    bool frozen = frozen_every > 0 && e % frozen_every == 0;
    auto like = [&](const Tensor& t) {
      return frozen ? Tensor() : rnd.tensor(t.rows(), t.cols(), DType::F32, 1, 1);
    };
    d.gate.push_back(like(w.gate[e]));
    d.up.push_back(like(w.up[e]));
    d.down.push_back(like(w.down[e]));
  }
  return d;
}

}  // namespace

TEST_CASE("moe_ffn: the reference's gradients are its derivatives") {
  Layer l({3, 4, 3, 3, 2, problems::Routing::kRandom}, DType::F32);
  auto p = l.p;
  Doubles x = doubles(l.x), dy = doubles(l.dy), weight = doubles(l.weight), y(x.size()),
          g(p.tokens * p.top_k * p.inter), u = g, dx(x.size()), dweight(weight.size());
  RefExperts<double> w(l.w, false), dw(l.w, false);
  for (auto& v : dw.keep) std::fill(v.begin(), v.end(), 0);
  ref::moe_ffn_fwd(y.data(), g.data(), u.data(), x.data(), weight.data(), l.expert.i32(), w.table,
                   p.tokens, p.hidden, p.inter, p.top_k);
  ref::moe_ffn_bwd(dx.data(), dweight.data(), &dw.table, dy.data(), x.data(), weight.data(),
                   g.data(), u.data(), l.expert.i32(), w.table, p.tokens, p.hidden, p.inter,
                   p.top_k);
  auto derivative = [&](int which, size_t tensor, size_t i) {
    Complexes cx = complexes(x), cweight = complexes(weight), cy(x.size());
    RefExperts<std::complex<double>> cw(l.w, false);
    (which == 0 ? cx : which == 1 ? cweight : cw.keep[tensor])[i] += std::complex<double>(0, 1e-20);
    ref::moe_ffn_fwd<std::complex<double>>(cy.data(), nullptr, nullptr, cx.data(), cweight.data(),
                                           l.expert.i32(), cw.table, p.tokens, p.hidden, p.inter,
                                           p.top_k);
    double d = 0;
    for (size_t j = 0; j < cy.size(); ++j) d += dy[j] * cy[j].imag() / 1e-20;
    return d;
  };
  auto close = [](double a, double b) { CHECK(std::abs(a - b) < 1e-12 * (1 + std::abs(b))); };
  for (size_t i = 0; i < dx.size(); ++i) close(dx[i], derivative(0, 0, i));
  for (size_t i = 0; i < dweight.size(); ++i) close(dweight[i], derivative(1, 0, i));
  for (size_t t = 0; t < dw.keep.size(); ++t)
    for (size_t i = 0; i < dw.keep[t].size(); ++i) close(dw.keep[t][i], derivative(2, t, i));
}

TEST_CASE("moe_ffn: parity with the reference") {
  for (auto p : problems::kMoe)
    for (DType dtype : {DType::F32, DType::BF16, DType::F16}) {
      if (p.tokens * p.hidden * p.inter > 1000000 && dtype != DType::BF16) continue;
      Layer l(p, dtype);
      CAPTURE(p.tokens);
      CAPTURE(p.hidden);
      CAPTURE(p.inter);
      CAPTURE(name_of(dtype));
      int64_t pairs = p.tokens * p.top_k;
      for_each_isa([&](Ctx& ctx, Compute compute) {
        bool round = compute == Compute::kBF16;
        Random rnd(11);
        Doubles x = doubles(l.x, round), dy = doubles(l.dy, round), weight = doubles(l.weight);
        RefExperts<double> w(l.w, round);
        Doubles wy(l.x.numel()), wg(pairs * p.inter), wu = wg;
        ref::moe_ffn_fwd(wy.data(), wg.data(), wu.data(), x.data(), weight.data(), l.expert.i32(),
                         w.table, p.tokens, p.hidden, p.inter, p.top_k);
        Tensor y = empty({p.tokens, p.hidden}), g = empty({pairs, p.inter}),
               u = empty({pairs, p.inter}), y2 = empty_like(y);
        cpu::moe_ffn_fwd(ctx, y, g, u, l.x, l.weight, l.index, l.w);
        cpu::moe_ffn_fwd(ctx, y2, {}, {}, l.x, l.weight, l.index, l.w);
        expect_close(y, wy, compute, "y");
        expect_close(l.by_pair(g), wg, compute, "gate");
        expect_close(l.by_pair(u), wu, compute, "up");
        CHECK(bits(y) == bits(y2));
        {  // kept in bf16: the same, rounded; backward reads them as what they are
          Tensor g16 = empty(g.shape, DType::BF16), u16 = empty_like(g16), y3 = empty_like(y);
          cpu::moe_ffn_fwd(ctx, y3, g16, u16, l.x, l.weight, l.index, l.w);
          CHECK(bits(y) == bits(y3));
          CHECK(bits(g16) == bits(cast(g, DType::BF16)));
          CHECK(bits(u16) == bits(cast(u, DType::BF16)));
          Tensor dx16 = zeros(l.x.shape), dx32 = zeros(l.x.shape), dw16 = zeros(l.weight.shape),
                 dw32 = zeros(l.weight.shape);
          cpu::moe_ffn_bwd(ctx, dx16, dw16, nullptr, l.dy, l.x, l.weight, g16, u16, l.index, l.w);
          cpu::moe_ffn_bwd(ctx, dx32, dw32, nullptr, l.dy, l.x, l.weight, cast(g16, DType::F32),
                           cast(u16, DType::F32), l.index, l.w);
          CHECK(bits(dx16) == bits(dx32));
          CHECK(bits(dw16) == bits(dw32));
        }

        ExpertWeights dw = gradients(l.w, 2, rnd);
        RefExperts<double> wdw(dw, false);
        Tensor dx = rnd.tensor(p.tokens, p.hidden, DType::F32, 1, 2),
               dweight = rnd.tensor(p.tokens, p.top_k);
        Doubles wdx = doubles(dx), wdweight = doubles(dweight);
        Doubles gs = doubles(l.by_pair(g)), us = doubles(l.by_pair(u));
        ref::moe_ffn_bwd(wdx.data(), wdweight.data(), &wdw.table, dy.data(), x.data(),
                         weight.data(), gs.data(), us.data(), l.expert.i32(), w.table, p.tokens,
                         p.hidden, p.inter, p.top_k);
        ExpertWeights before = dw;
        for (auto* v : {&before.gate, &before.up, &before.down})
          for (Tensor& t : *v) t = t ? clone(t) : t;
        cpu::moe_ffn_bwd(ctx, dx, dweight, &dw, l.dy, l.x, l.weight, g, u, l.index, l.w);
        expect_close(dx, wdx, compute, "dx");
        expect_close(dweight, wdweight, compute, "dweight");
        for (int64_t e = 0; e < p.experts; ++e) {
          if (!dw.gate[e]) continue;
          size_t n = dw.gate[e].numel();
          expect_close(dw.gate[e], Doubles(wdw.table.gate[e], wdw.table.gate[e] + n), compute,
                       "dgate");
          expect_close(dw.up[e], Doubles(wdw.table.up[e], wdw.table.up[e] + n), compute, "dup");
          expect_close(dw.down[e], Doubles(wdw.table.down[e], wdw.table.down[e] + n), compute,
                       "ddown");
        }
        cpu::moe_ffn_bwd(ctx, {}, {}, &before, l.dy, l.x, l.weight, g, u, l.index,
                         l.w);  // no dx: same weight gradients
        for (int64_t e = 0; e < p.experts; ++e)
          if (dw.gate[e]) CHECK(bits(before.down[e]) == bits(dw.down[e]));
        Tensor dx2 = zeros({p.tokens, p.hidden});
        cpu::moe_ffn_bwd(ctx, dx2, {}, nullptr, l.dy, l.x, l.weight, g, u, l.index,
                         l.w);  // all frozen
      });
    }
}

TEST_CASE("moe_ffn: the number of threads changes no bit") {
  Layer l({200, 160, 96, 6, 2, problems::Routing::kSkewed}, DType::BF16);
  for_each_isa([&](Ctx& ctx, Compute) {
    expect_same_for_any_thread_count([&] {
      Random rnd(2);
      Tensor y = empty({200, 160}), g = empty({400, 96}), u = empty({400, 96}),
             dx = zeros({200, 160}), dweight = zeros({200, 2});
      ExpertWeights dw = gradients(l.w, 0, rnd);
      cpu::moe_ffn_fwd(ctx, y, g, u, l.x, l.weight, l.index, l.w);
      cpu::moe_ffn_bwd(ctx, dx, dweight, &dw, l.dy, l.x, l.weight, g, u, l.index, l.w);
      std::vector<Tensor> out{y, g, u, dx, dweight};
      out.insert(out.end(), dw.gate.begin(), dw.gate.end());
      out.insert(out.end(), dw.up.begin(), dw.up.end());
      out.insert(out.end(), dw.down.begin(), dw.down.end());
      return out;
    });
  });
}

}  // namespace sutor
