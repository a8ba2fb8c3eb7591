// Element-wise kernels against engine/ref/pointwise.h and complex step; the fast exponential;
// strides, duplicates, empty outputs.
#include "engine/ref/pointwise.h"

#include "engine/cpu/fast_math.h"
#include "engine/cpu/rows.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

}  // namespace

TEST_CASE("fast_exp: relative error below 2e-7 over the whole range, exact at the ends") {
  double worst = 0;
  for (double x = -87.3; x < 88.36; x += 1.0 / 4099) {
    float f = static_cast<float>(x);
    double want = std::exp(static_cast<double>(f));
    worst = std::max(worst, std::abs(cpu::fast_exp(f) - want) / want);
  }
  for (int i = -2000; i <= 2000; ++i) {  // around the seams, where n changes
    float f = static_cast<float>((i / 20 + 0.5) * 0.6931471805599453 + (i % 20) * 1e-6);
    double want = std::exp(static_cast<double>(f));
    if (std::abs(f) < 87) worst = std::max(worst, std::abs(cpu::fast_exp(f) - want) / want);
  }
  CHECK(worst <= 2e-7);
  CHECK(cpu::fast_exp(0) == 1);
  CHECK(cpu::fast_exp(-INFINITY) == 0);
  CHECK(cpu::fast_exp(-88) == 0);
  CHECK(std::isfinite(cpu::fast_exp(INFINITY)));
  CHECK(cpu::fast_exp(INFINITY) > 2e38f);
  CHECK(std::isnan(cpu::fast_exp(NAN)));
}

TEST_CASE("fast_exp: every set of row kernels computes it with the same bits") {
  Tensor x = random({100003}, 1, 90);
  check_bitwise([&] {
    Tensor y = empty({100003});
    cpu::row_kernels().sigmoid(y.f32(), x.f32(), x.numel());
    return std::vector{y};
  });
}

TEST_CASE("add_fwd and accumulate: any rank, strided or not") {
  for (Shape shape : {Shape{1}, Shape{9}, Shape{20000}, Shape{1, 1}, Shape{7, 3}, Shape{2, 5, 33}})
    for (int64_t pad : {0, 2}) {
      if (shape.size() == 1 && pad > 0) continue;
      CAPTURE(to_string(shape));
      CAPTURE(pad);
      Tensor a = random(shape, 1, 1, DType::F32, pad), b = random(shape, 2),
             y = random(shape, 3, 1, DType::F32, 2 * pad);
      Doubles as = dense(a), bs = dense(b);
      cpu::add_fwd(ctx, y, a, b);
      CHECK(near(dense(y), sum(as, bs), 1e-7));
      cpu::accumulate(ctx, a, b, -0.5f);
      for (double& v : bs) v *= -0.5;
      CHECK(near(dense(a), sum(as, bs), 1e-7));
    }
  cpu::accumulate(ctx, {}, zeros({3}), 1);  // not wanted: nothing happens
  CHECK_THROWS_AS(cpu::accumulate(ctx, zeros({3}), zeros({4}), 1), Error);
}

TEST_CASE(
    "swiglu: forward equals the specification, backward equals complex step, each gradient on its "
    "own") {
  for (int64_t T : {1, 4})
    for (int64_t I : {1, 16, 37})
      for (int64_t pad : {0, 5}) {
        CAPTURE(T);
        CAPTURE(I);
        CAPTURE(pad);
        Tensor both = random({T, 2 * I + pad}, 1,
                             6);  // gate and up side by side, as one matrix product leaves them
        Tensor gate = both.columns(0, I), up = both.columns(I, 2 * I), y = empty({T, I});
        int64_t n = T * I;
        Doubles want(n), g = dense(gate), u = dense(up);
        ref::swiglu_fwd(want.data(), g.data(), u.data(), n);
        cpu::swiglu_fwd(ctx, y, gate, up);
        CHECK(near(dense(y), want, 1e-6));

        Tensor dy = random({T, I}, 2, 1, DType::F32, pad),
               dgate = random({T, I}, 3, 1, DType::F32, pad), dup = random({T, I}, 4);
        auto run = [&](const std::vector<Complex>& zg, const std::vector<Complex>& zu) {
          std::vector<Complex> out(n);
          ref::swiglu_fwd(out.data(), zg.data(), zu.data(), n);
          return out;
        };
        Doubles gg =
            complex_step(g, dense(dy), [&](auto& z) { return run(z, dense<Complex>(up)); });
        Doubles gu =
            complex_step(u, dense(dy), [&](auto& z) { return run(dense<Complex>(gate), z); });
        Doubles rg(n), ru(n), dys = dense(dy), want_g = sum(dense(dgate), gg),
                              want_u = sum(dense(dup), gu);
        ref::swiglu_bwd(rg.data(), ru.data(), dys.data(), g.data(), u.data(), n);
        cpu::swiglu_bwd(ctx, dgate, {}, dy, gate, up);
        cpu::swiglu_bwd(ctx, {}, dup, dy, gate, up);
        CHECK(near(dense(dgate), want_g));
        CHECK(near(dense(dup), want_u));
        CHECK(near(rg, gg));
        CHECK(near(ru, gu));
      }
}

TEST_CASE("swiglu_fwd: far out on both sides it is linear or zero, never NaN") {
  Tensor g = empty({4}), u = empty({4}), y = empty({4});
  float far[] = {-1e30f, -200, 200, 1e30f};
  for (int i = 0; i < 4; ++i) g.f32()[i] = far[i], u.f32()[i] = 1;
  cpu::swiglu_fwd(ctx, y, g, u);
  CHECK(std::abs(y.f32()[0]) <= 1e-7f * 1e30f);
  CHECK(y.f32()[1] == doctest::Approx(0));
  CHECK(y.f32()[2] == 200);
  CHECK(y.f32()[3] == 1e30f);
}

TEST_CASE("embed: rows of F32, BF16 and F16 tables; ids that occur twice; unknown ids") {
  Tensor ids = ints({5}, {3, 0, 3, 6, 3});
  for (DType type : {DType::F32, DType::BF16, DType::F16}) {
    Tensor w = random({7, 33}, 1), y = empty({5, 33});
    if (type == DType::F16) {  // cast() does not write it
      Tensor half = empty({7, 33}, DType::F16);
      for (int64_t i = 0; i < w.numel(); ++i)
        half.as<f16>()[i].bits = std::bit_cast<uint16_t>(static_cast<_Float16>(w.f32()[i]));
      w = half;
    } else {
      w = cast(w, type);
    }
    Doubles want(5 * 33), ws = dense(w);
    ref::gather_fwd(want.data(), ws.data(), ids.i32(), 5, 33);
    cpu::embed_fwd(ctx, y, ids, w);
    CHECK(dense(y) == want);
  }
  Tensor dw = random({7, 33}, 2), dy = random({5, 33}, 3, 1, DType::F32, 1);
  Doubles want = dense(dw), dys = dense(dy);
  ref::gather_bwd(want.data(), dys.data(), ids.i32(), 5, 33);
  cpu::embed_bwd(ctx, dw, dy, ids);
  CHECK(near(dense(dw), want, 1e-6));
  CHECK_THROWS_AS(cpu::embed_fwd(ctx, dy, ints({5}, {0, 0, 7, 0, 0}), dw), Error);
  CHECK_THROWS_AS(cpu::embed_fwd(ctx, dy, ints({5}, {0, 0, -1, 0, 0}), dw), Error);
}

TEST_CASE("gather: the backward is the transpose, duplicates and absent rows included") {
  Tensor idx = ints({6}, {2, -1, 0, 2, 2, -1}), x = random({4, 21}, 1, 1, DType::F32, 3),
         y = random({6, 21}, 2, 1, DType::F32, 1);
  Doubles xs = dense(x), want(6 * 21);
  ref::gather_fwd(want.data(), xs.data(), idx.i32(), 6, 21);
  cpu::gather_fwd(ctx, y, x, idx);
  CHECK(dense(y) == want);
  Tensor dy = random({6, 21}, 3), dx = random({4, 21}, 4, 1, DType::F32, 2);
  Doubles grad = complex_step(xs, dense(dy), [&](auto& z) {
    std::vector<Complex> out(6 * 21);
    ref::gather_fwd(out.data(), z.data(), idx.i32(), 6, 21);
    return out;
  });
  Doubles want_dx = sum(dense(dx), grad);
  cpu::gather_bwd(ctx, dx, dy, idx);
  CHECK(near(dense(dx), want_dx, 1e-6));
  CHECK_THROWS_AS(cpu::gather_fwd(ctx, y, x, ints({6}, {0, 0, 0, 4, 0, 0})), Error);
}

TEST_CASE("mla_key: joins per-head and shared columns; backward sums the shared ones over heads") {
  for (int64_t T : {1, 3})
    for (int heads : {1, 4})
      for (int64_t P : {1, 6, 17}) {
        CAPTURE(T);
        CAPTURE(heads);
        CAPTURE(P);
        int64_t R = 5, rows = T * heads;
        Tensor nope = random({rows, P}, 1, 1, DType::F32, 7),
               pe = random({T, R}, 2, 1, DType::F32, 3), k = empty({rows, P + R});
        Doubles want(rows * (P + R)), ns = dense(nope), ps = dense(pe);
        ref::mla_key_fwd(want.data(), ns.data(), ps.data(), rows, heads, P, R);
        cpu::mla_key_fwd(ctx, k, nope, pe, heads);
        CHECK(dense(k) == want);

        Tensor dk = random({rows, P + R}, 3), dnope = random({rows, P}, 4, 1, DType::F32, 7),
               dpe = random({T, R}, 5, 1, DType::F32, 1);
        auto run = [&](const std::vector<Complex>& zn, const std::vector<Complex>& zp) {
          std::vector<Complex> out(rows * (P + R));
          ref::mla_key_fwd(out.data(), zn.data(), zp.data(), rows, heads, P, R);
          return out;
        };
        Doubles gn =
            complex_step(ns, dense(dk), [&](auto& z) { return run(z, dense<Complex>(pe)); });
        Doubles gp =
            complex_step(ps, dense(dk), [&](auto& z) { return run(dense<Complex>(nope), z); });
        Doubles want_n = sum(dense(dnope), gn), want_p = sum(dense(dpe), gp), rn(ns.size()),
                rp(ps.size()), dks = dense(dk);
        ref::mla_key_bwd(rn.data(), rp.data(), dks.data(), rows, heads, P, R);
        cpu::mla_key_bwd(ctx, dnope, {}, dk, heads);
        cpu::mla_key_bwd(ctx, {}, dpe, dk, heads);
        cpu::mla_key_bwd(ctx, {}, {}, dk, heads);
        CHECK(near(dense(dnope), want_n));
        CHECK(near(dense(dpe), want_p));
        CHECK(near(rn, gn));
        CHECK(near(rp, gp));
      }
}

TEST_CASE("element-wise kernels: the same bits for every thread count and instruction set") {
  Tensor a = random({203, 333}, 1, 4), b = random({203, 333}, 2, 4), d = random({203, 333}, 3),
         ids = empty({203}, DType::I32);
  Random r{9};
  for (int t = 0; t < 203; ++t) ids.i32()[t] = static_cast<int32_t>(r.below(10));
  check_bitwise([&] {
    Tensor y = empty({203, 333}), sum = empty({203, 333}), dg = zeros({203, 333}),
           du = zeros({203, 333}), dw = zeros({10, 333});
    cpu::swiglu_fwd(ctx, y, a, b);
    cpu::swiglu_bwd(ctx, dg, du, d, a, b);
    cpu::add_fwd(ctx, sum, a, b);
    cpu::accumulate(ctx, sum, d, 0.3f);
    cpu::embed_bwd(ctx, dw, d, ids);
    return std::vector{y, sum, dg, du, dw};
  });
}
