// adapter against engine/ref/adapter.h: every instruction set, weight type, routing (empty expert,
// all on one, T = 1, K = 1), with and without dropout; gradients of the reference by complex step;
// frozen adapters and unwanted outputs; thread counts; the operation on the tape. The complex-step
// test failed with gelu' = P(N < x) - x density, and with the mask left out of dDown, before it
// passed.

#include "engine/ref/adapter.h"

#include "engine/cpu/rows.h"
#include "engine/ops.h"
#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

namespace {

constexpr float kScale = 0.25f;

struct Layer {
  problems::Moe p;
  Tensor x, weight, expert, dy;
  AdapterWeights w;
  MoeIndex index;

  Layer(problems::Moe m, DType dtype, uint32_t seed = 5) : p(m) {
    Random rnd(seed);
    x = rnd.tensor(p.tokens, p.hidden, DType::F32, 1, 3);
    dy = rnd.tensor(p.tokens, p.hidden, DType::F32, 1, 1);
    weight = rnd.tensor(p.tokens, p.top_k);
    for (int64_t e = 0; e < p.experts; ++e) {
      w.down.push_back(rnd.tensor(p.inter, p.hidden, dtype, 0.3f, e % 2));
      w.up.push_back(rnd.tensor(p.hidden, p.inter, dtype, 0.3f, 2));
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
struct RefAdapters {
  std::vector<std::vector<T>> keep;
  ref::Adapters<T> table;
  RefAdapters(const AdapterWeights& w, bool round) {
    keep.reserve(2 * w.down.size());
    auto add = [&](const std::vector<Tensor>& from, std::vector<T*>& to) {
      for (const Tensor& t : from) {
        Doubles d = t ? doubles(t, round) : Doubles();
        keep.emplace_back(d.begin(), d.end());
        to.push_back(t ? keep.back().data() : nullptr);
      }
    };
    add(w.down, table.down);
    add(w.up, table.up);
  }
};

// Of the experts: 0 frozen, 1 only down, 2 only up, then both.
AdapterWeights gradients(const AdapterWeights& w, bool all, Random& rnd) {
  AdapterWeights d;
  for (size_t e = 0; e < w.down.size(); ++e) {
    auto like = [&](const Tensor& t, size_t other) {
      bool frozen = !all && (e == 0 || e == other);
      return frozen ? Tensor() : rnd.tensor(t.rows(), t.cols(), DType::F32, 1, 1);
    };
    d.down.push_back(like(w.down[e], 2));
    d.up.push_back(like(w.up[e], 1));
  }
  return d;
}

}  // namespace

TEST_CASE("adapter: gelu and its slope, in double and in float") {
  double worst = 0, slope = 0, fast = 0, fast_slope = 0;
  Tensor x = empty({20001}), y = empty({20001}), z = empty({20001}), d = empty({20001});
  for (int i = 0; i < 20001; ++i) x.f32()[i] = static_cast<float>((i - 10000) * 1.2e-3);
  std::fill_n(z.f32(), z.numel(), 1.0f);
  cpu::row_kernels().gelu(y.f32(), x.f32(), x.numel());
  cpu::row_kernels().gelu_grad(d.f32(), z.f32(), x.f32(), 1, x.numel());
  for (int i = 0; i < 20001; ++i) {
    double v = x.f32()[i], want = v * std::erfc(-v / std::sqrt(2.0)) / 2,
           step = ref::gelu(std::complex<double>(v, 1e-20)).imag() / 1e-20;
    if (v > -4) worst = std::max(worst, std::abs(ref::gelu(v) - want) / (std::abs(want) + 1e-300));
    slope = std::max(slope, std::abs(ref::gelu_slope(v) - step));
    if (v > -3) fast = std::max(fast, std::abs(y.f32()[i] - want) / (std::abs(want) + 1e-30));
    fast_slope = std::max(fast_slope, std::abs(d.f32()[i] - step));
  }
  CHECK(worst < 1e-10);
  CHECK(slope < 1e-13);
  CHECK(fast < 8e-7);
  CHECK(fast_slope < 4e-7);
}

TEST_CASE("adapter: the reference's gradients are its derivatives") {
  for (float drop : {0.0f, 0.4f}) {
    Layer l({3, 4, 3, 3, 2, problems::Routing::kRandom}, DType::F32);
    auto p = l.p;
    Doubles x = doubles(l.x), dy = doubles(l.dy), weight = doubles(l.weight), y(x.size()),
            low(p.tokens * p.top_k * p.inter), dx(x.size()), dweight(weight.size());
    RefAdapters<double> w(l.w, false), dw(l.w, false);
    for (auto& v : dw.keep) std::fill(v.begin(), v.end(), 0);
    ref::adapter_fwd(y.data(), low.data(), x.data(), weight.data(), l.expert.i32(), w.table,
                     p.tokens, p.hidden, p.inter, p.top_k, kScale, drop, 9);
    ref::adapter_bwd(dx.data(), dweight.data(), &dw.table, dy.data(), x.data(), weight.data(),
                     low.data(), l.expert.i32(), w.table, p.tokens, p.hidden, p.inter, p.top_k,
                     kScale, drop, 9);
    auto derivative = [&](int which, size_t tensor, size_t i) {
      Complexes cx = complexes(x), cweight = complexes(weight), cy(x.size());
      RefAdapters<std::complex<double>> cw(l.w, false);
      (which == 0   ? cx
       : which == 1 ? cweight
                    : cw.keep[tensor])[i] += std::complex<double>(0, 1e-20);
      ref::adapter_fwd<std::complex<double>>(cy.data(), nullptr, cx.data(), cweight.data(),
                                             l.expert.i32(), cw.table, p.tokens, p.hidden, p.inter,
                                             p.top_k, kScale, drop, 9);
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
}

TEST_CASE("adapter: parity with the reference") {
  for (auto p : problems::kMoe)
    for (DType dtype : {DType::F32, DType::BF16, DType::F16})
      for (float p_drop : {0.0f, 0.2f}) {
        bool large = p.tokens * p.hidden * p.inter > 1000000;
        if ((large || p_drop > 0) && dtype != DType::BF16) continue;
        Layer l(p, dtype);
        Dropout drop{p_drop, 31};
        CAPTURE(p.tokens);
        CAPTURE(p.hidden);
        CAPTURE(p.inter);
        CAPTURE(p_drop);
        CAPTURE(name_of(dtype));
        int64_t pairs = p.tokens * p.top_k;
        for_each_isa([&](Ctx& ctx, Compute compute) {
          bool round = compute == Compute::kBF16;
          Random rnd(11);
          Doubles x = doubles(l.x), dy = doubles(l.dy), weight = doubles(l.weight);
          RefAdapters<double> w(l.w, round);
          Doubles wy(l.x.numel()), wl(pairs * p.inter);
          ref::adapter_fwd(wy.data(), wl.data(), x.data(), weight.data(), l.expert.i32(), w.table,
                           p.tokens, p.hidden, p.inter, p.top_k, kScale, drop.p, drop.seed);
          Tensor y = empty({p.tokens, p.hidden}), low = empty({pairs, p.inter}), y2 = empty_like(y);
          cpu::adapter_fwd(ctx, y, low, l.x, l.weight, l.index, l.w, kScale, drop);
          cpu::adapter_fwd(ctx, y2, {}, l.x, l.weight, l.index, l.w, kScale, drop);
          // Without the identity, which would hide what the experts add.
          auto added = [&](Doubles v) {
            for (size_t i = 0; i < v.size(); ++i) v[i] -= x[i];
            return v;
          };
          CHECK(distance(added(doubles(y)), added(wy), compute) < 1e-5);
          expect_close(l.by_pair(low), wl, compute, "low");
          CHECK(bits(y) == bits(y2));

          AdapterWeights dw = gradients(l.w, false, rnd);
          RefAdapters<double> wdw(dw, false);
          Tensor dx = rnd.tensor(p.tokens, p.hidden, DType::F32, 1, 2),
                 dweight = rnd.tensor(p.tokens, p.top_k);
          Doubles wdx = doubles(dx), wdweight = doubles(dweight), ls = doubles(l.by_pair(low));
          ref::adapter_bwd(wdx.data(), wdweight.data(), &wdw.table, dy.data(), x.data(),
                           weight.data(), ls.data(), l.expert.i32(), w.table, p.tokens, p.hidden,
                           p.inter, p.top_k, kScale, drop.p, drop.seed);
          AdapterWeights before = dw;
          for (auto* v : {&before.down, &before.up})
            for (Tensor& t : *v) t = t ? clone(t) : t;
          cpu::adapter_bwd(ctx, dx, dweight, &dw, l.dy, l.x, l.weight, low, l.index, l.w, kScale,
                           drop);
          expect_close(dx, wdx, compute, "dx");
          expect_close(dweight, wdweight, compute, "dweight");
          auto same = [&](const std::vector<Tensor>& got, const std::vector<double*>& want,
                          const char* what) {
            for (size_t e = 0; e < got.size(); ++e)
              if (got[e])
                expect_close(got[e], Doubles(want[e], want[e] + got[e].numel()), compute, what);
          };
          same(dw.down, wdw.table.down, "ddown");
          same(dw.up, wdw.table.up, "dup");
          cpu::adapter_bwd(ctx, {}, {}, &before, l.dy, l.x, l.weight, low, l.index, l.w, kScale,
                           drop);  // no dx: same weight gradients
          for (int64_t e = 0; e < p.experts; ++e) {
            if (dw.down[e]) CHECK(bits(before.down[e]) == bits(dw.down[e]));
            if (dw.up[e]) CHECK(bits(before.up[e]) == bits(dw.up[e]));
          }
          Tensor dx2 = zeros({p.tokens, p.hidden}), dweight2 = zeros({p.tokens, p.top_k});
          cpu::adapter_bwd(ctx, dx2, {}, nullptr, l.dy, {}, l.weight, low, l.index, l.w, kScale,
                           drop);  // all frozen
          cpu::adapter_bwd(ctx, {}, dweight2, nullptr, l.dy, {}, l.weight, low, l.index, l.w,
                           kScale, drop);
        });
      }
}

TEST_CASE("adapter: the number of threads changes no bit") {
  Layer l({200, 160, 96, 6, 2, problems::Routing::kSkewed}, DType::BF16),
      one({1, 160, 96, 6, 2, problems::Routing::kRandom}, DType::BF16);
  Dropout drop{0.1f, 4};
  for_each_isa([&](Ctx& ctx, Compute) {
    expect_same_for_any_thread_count([&] {
      Random rnd(2);
      Tensor y = empty({200, 160}), low = empty({400, 96}), dx = zeros({200, 160}),
             dweight = zeros({200, 2}), y1 = empty({1, 160});
      AdapterWeights dw = gradients(l.w, true, rnd);
      cpu::adapter_fwd(ctx, y, low, l.x, l.weight, l.index, l.w, kScale, drop);
      cpu::adapter_bwd(ctx, dx, dweight, &dw, l.dy, l.x, l.weight, low, l.index, l.w, kScale, drop);
      cpu::adapter_fwd(ctx, y1, {}, one.x, one.weight, one.index, one.w, kScale, {});
      std::vector<Tensor> out{y, low, dx, dweight, y1};
      out.insert(out.end(), dw.down.begin(), dw.down.end());
      out.insert(out.end(), dw.up.begin(), dw.up.end());
      return out;
    });
  });
}

TEST_CASE("adapter: tables that do not fit are an error") {
  Layer l({3, 8, 4, 3, 2, problems::Routing::kRandom}, DType::F32);
  Ctx ctx = cpu_context(Compute::kF32);
  Tensor y = empty({3, 8});
  std::swap(l.w.up[1], l.w.down[1]);
  CHECK_THROWS_WITH_AS(cpu::adapter_fwd(ctx, y, {}, l.x, l.weight, l.index, l.w, 1, {}),
                       "adapter: expert 1: down [8, 4], up [4, 8] for hidden size 8 and width 4",
                       Error);
  l.w.up.pop_back();
  CHECK_THROWS_AS(cpu::adapter_fwd(ctx, y, {}, l.x, l.weight, l.index, l.w, 1, {}), Error);
}

TEST_CASE("adapter_moe: on the tape; a recomputed block draws the same masks; none in evaluation") {
  Layer l({12, 16, 8, 4, 2, problems::Routing::kRandom}, DType::F32);
  ParamStore store;
  AdapterBank bank;
  for (int64_t e = 0; e < 4; ++e) {
    bank.down.push_back(&store.add(fmt::format("experts.{}.adapter_down.weight", e), l.w.down[e]));
    bank.up.push_back(&store.add(fmt::format("experts.{}.adapter_up.weight", e), l.w.up[e]));
  }
  store.train("experts.1.*");
  store.train("experts.2.adapter_up.weight");
  store.prepare_training(Compute::kF32, {.optimizer = false});
  Ctx ctx = cpu_context(Compute::kF32);
  auto run = [&](bool recompute) {
    store.zero_grads();
    Tape tape(ctx, true);
    Var x = tape.leaf(l.x);
    auto block = [&](const Var& in) {
      return std::vector{
          adapter_moe(in, {{}, in.tape->constant(l.weight), l.expert}, bank, kScale, 0.3f)};
    };
    Var y = recompute ? checkpoint(x, block)[0] : block(x)[0];
    tape.backward(std::vector{y}, std::vector{l.dy});
    std::vector<Tensor> out{y.value, x.grad(), clone(bank.down[1]->grad), clone(bank.up[1]->grad),
                            clone(bank.up[2]->grad)};
    CHECK(!bank.down[2]->grad);
    return out;
  };
  auto equal = [](const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    for (size_t i = 0; i < a.size(); ++i) CHECK(bits(a[i]) == bits(b[i]));
  };
  ctx.dropout = 3;
  auto plain = run(false);
  equal(plain, run(true));
  equal(plain, run(false));
  ctx.dropout = 4;
  CHECK(bits(plain[0]) != bits(run(false)[0]));
  ctx.dropout = 0;
  Tensor y = empty({12, 16});
  cpu::adapter_fwd(ctx, y, {}, l.x, l.weight, l.index, l.w, kScale, {});
  CHECK(bits(y) == bits(run(false)[0]));
}

}  // namespace sutor
