// attention against engine/ref/attention.h: documents, sliding windows, grouped heads, remainders,
// strides, decode; gradients of the reference by complex step; thread counts. The complex-step test
// failed without the -<do, o> term before it passed.

#include "engine/ref/attention.h"

#include <array>

#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

namespace {

// First key of each token: of its document, or with a sliding window the window's.
Tensor starts(int64_t tk, int64_t document, int64_t window = 0) {
  Tensor s = zeros({tk}, DType::I32);
  for (int64_t t = 0; t < tk; ++t)
    s.i32()[t] = static_cast<int32_t>(
        std::max(document > 0 ? t / document * document : 0, window > 0 ? t - window + 1 : 0));
  return s;
}

}  // namespace

TEST_CASE("attention: the reference's gradients are its derivatives") {
  ref::AttentionDims n{4, 6, 4, 2, 3, 2};
  Random rnd;
  Doubles q = doubles(rnd.tensor(n.tq * n.heads, n.d)),
          k = doubles(rnd.tensor(n.tk * n.kv_heads, n.d)),
          v = doubles(rnd.tensor(n.tk * n.kv_heads, n.dv)),
          dout = doubles(rnd.tensor(n.tq * n.heads, n.dv)), o(dout.size()), lse(n.tq * n.heads),
          dq(q.size()), dk(k.size()), dv(v.size());
  Tensor start = starts(n.tk, 4);
  ref::attention_fwd(o.data(), lse.data(), q.data(), k.data(), v.data(), start.i32(), n, 0.7);
  ref::attention_bwd(dq.data(), dk.data(), dv.data(), dout.data(), o.data(), lse.data(), q.data(),
                     k.data(), v.data(), start.i32(), n, 0.7);
  auto check_gradient = [&](int which, const Doubles& gradient) {
    for (size_t i = 0; i < gradient.size(); ++i) {
      Complexes cq = complexes(q), ck = complexes(k), cv = complexes(v), co(o.size()),
                cl(lse.size());
      (which == 0 ? cq : which == 1 ? ck : cv)[i] += std::complex<double>(0, 1e-20);
      ref::attention_fwd<std::complex<double>>(co.data(), cl.data(), cq.data(), ck.data(),
                                               cv.data(), start.i32(), n, 0.7);
      double d = 0;
      for (size_t j = 0; j < co.size(); ++j) d += dout[j] * co[j].imag() / 1e-20;
      CHECK(std::abs(d - gradient[i]) < 1e-12);
    }
  };
  check_gradient(0, dq);
  check_gradient(1, dk);
  check_gradient(2, dv);
}

TEST_CASE("attention: parity with the reference") {
  for (size_t i = 0; i < 3 * std::size(problems::kAttention); ++i) {
    const problems::Attention& p = problems::kAttention[i / 3];
    int64_t window = std::array<int64_t, 3>{0, 5, 40}[i % 3];
    CAPTURE(window);
    CAPTURE(p.tq);
    CAPTURE(p.tk);
    CAPTURE(p.heads);
    ref::AttentionDims n{p.tq, p.tk, p.heads, p.kv_heads, p.d, p.dv};
    Random rnd(9);
    int64_t rows = p.tq * p.heads, keys = p.tk * p.kv_heads;
    int heads = static_cast<int>(p.heads), kv_heads = static_cast<int>(p.kv_heads);
    Tensor q = rnd.tensor(rows, p.d, DType::F32, 3, 1), k = rnd.tensor(keys, p.d, DType::F32, 1, 2),
           v = rnd.tensor(keys, p.dv, DType::F32, 1, 3),
           dout = rnd.tensor(rows, p.dv, DType::F32, 1, 4),
           start = starts(p.tk, p.document, window);
    Doubles qs = doubles(q), ks = doubles(k), vs = doubles(v), dos = doubles(dout), wo(rows * p.dv),
            wl(rows);
    ref::attention_fwd(wo.data(), wl.data(), qs.data(), ks.data(), vs.data(), start.i32(), n, 0.25);
    for_each_isa([&](Ctx& ctx, Compute) {
      Tensor o = rnd.tensor(rows, p.dv, DType::F32, 1, 1), lse = empty({rows});
      cpu::attention_fwd(ctx, o, lse, q, k, v, start, heads, kv_heads, 0.25f);
      expect_close(o, wo, Compute::kF32, "o");
      expect_close(lse, wl, Compute::kF32, "lse");
      Tensor last = start.slice(p.tk - p.tq, p.tk), o2 = empty({rows, p.dv});
      cpu::attention_fwd(ctx, o2, {}, q, k, v, last, heads, kv_heads, 0.25f);
      CHECK(bits(o2) == bits(o));
      Tensor dq = rnd.tensor(rows, p.d, DType::F32, 1, 1), dk = rnd.tensor(keys, p.d),
             dv = rnd.tensor(keys, p.dv);
      Doubles gq = doubles(dq), gk = doubles(dk), gv = doubles(dv);
      cpu::attention_bwd(ctx, dq, dk, dv, dout, o, lse, q, k, v, start, heads, kv_heads, 0.25f);
      ref::attention_bwd(gq.data(), gk.data(), gv.data(), dos.data(), wo.data(), wl.data(),
                         qs.data(), ks.data(), vs.data(), start.i32(), n, 0.25);
      expect_close(dq, gq, Compute::kF32, "dq");
      expect_close(dk, gk, Compute::kF32, "dk");
      expect_close(dv, gv, Compute::kF32, "dv");
    });
  }
}

TEST_CASE("attention: the number of threads changes no bit") {
  Random rnd(4);
  Tensor q = rnd.tensor(130 * 4, 32), k = rnd.tensor(130 * 2, 32), v = rnd.tensor(130 * 2, 32),
         dout = rnd.tensor(130 * 4, 32), start = starts(130, 70);
  for_each_isa([&](Ctx& ctx, Compute) {
    expect_same_for_any_thread_count([&] {
      Tensor o = empty({520, 32}), lse = empty({520}), dq = zeros({520, 32}), dk = zeros({260, 32}),
             dv = zeros({260, 32});
      cpu::attention_fwd(ctx, o, lse, q, k, v, start, 4, 2, 0.2f);
      cpu::attention_bwd(ctx, dq, dk, dv, dout, o, lse, q, k, v, start, 4, 2, 0.2f);
      return std::vector<Tensor>{o, lse, dq, dk, dv};
    });
  });
}

}  // namespace sutor
