// linear against engine/ref/linear.h: every instruction set, weight type, remainder, stride;
// gradients of the reference by complex step; thread counts. The complex-step test failed on a
// reference whose dx was built from x instead of w.

#include "engine/ref/linear.h"

#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

TEST_CASE("linear: the reference's gradients are its derivatives") {
  constexpr int64_t T = 3, N = 4, K = 5;
  Random rnd;
  Doubles x = doubles(rnd.tensor(T, K)), w = doubles(rnd.tensor(N, K)),
          b = doubles(rnd.tensor(1, N)), dy = doubles(rnd.tensor(T, N)), dx(T * K), dw(N * K),
          db(N);
  ref::linear_bwd(dx.data(), dw.data(), db.data(), dy.data(), x.data(), w.data(), T, N, K);
  auto check_gradient = [&](int which, const Doubles& gradient) {
    for (size_t i = 0; i < gradient.size(); ++i) {
      Complexes cx = complexes(x), cw = complexes(w), cb = complexes(b), y(T * N);
      (which == 0 ? cx : which == 1 ? cw : cb)[i] += std::complex<double>(0, 1e-20);
      ref::linear_fwd(y.data(), cx.data(), cw.data(), cb.data(), T, N, K);
      double d = 0;
      for (int64_t j = 0; j < T * N; ++j) d += dy[j] * y[j].imag() / 1e-20;
      CHECK(d == doctest::Approx(gradient[i]).epsilon(1e-12));
    }
  };
  check_gradient(0, dx);
  check_gradient(1, dw);
  check_gradient(2, db);
}

TEST_CASE("linear: parity with the reference") {
  for (auto p : problems::kLinear)
    for (DType dtype : {DType::F32, DType::BF16, DType::F16}) {
      if (p.tokens * p.n * p.k > 1000000 && dtype != DType::BF16) continue;
      CAPTURE(p.tokens);
      CAPTURE(p.n);
      CAPTURE(p.k);
      CAPTURE(name_of(dtype));
      Random rnd(7);
      Tensor x = rnd.tensor(p.tokens, p.k, DType::F32, 1, 3), w = rnd.tensor(p.n, p.k, dtype, 1, 5),
             b = rnd.tensor(1, p.n), dy = rnd.tensor(p.tokens, p.n, DType::F32, 1, 2);
      b = b.view({p.n});
      for_each_isa([&](Ctx& ctx, Compute compute) {
        bool round = compute == Compute::kBF16;
        Doubles xs = doubles(x, round), ws = doubles(w, round), bs = doubles(b),
                dys = doubles(dy, round);
        Tensor y = rnd.tensor(p.tokens, p.n, DType::F32, 1, 4);
        Doubles want(y.numel());
        cpu::linear_fwd(ctx, y, x, w, b);
        ref::linear_fwd(want.data(), xs.data(), ws.data(), bs.data(), p.tokens, p.n, p.k);
        expect_close(y, want, compute, "y");
        Tensor dx = rnd.tensor(p.tokens, p.k, DType::F32, 1, 1),
               dw = rnd.tensor(p.n, p.k, DType::F32, 1, 6), db = rnd.tensor(1, p.n).view({p.n});
        Doubles gx = doubles(dx), gw = doubles(dw), gb = doubles(db), unused = gb;
        cpu::linear_bwd(ctx, dx, dw, db, dy, x, w);
        ref::linear_bwd<double>(gx.data(), gw.data(), unused.data(), dys.data(), xs.data(),
                                ws.data(), p.tokens, p.n, p.k);
        for (int64_t t = 0; t < p.tokens; ++t)
          for (int64_t i = 0; i < p.n; ++i) gb[i] += dy.row(t)[i];
        expect_close(dx, gx, compute, "dx");
        expect_close(dw, gw, compute, "dw");
        expect_close(db, gb, compute, "db");
      });
    }
}

TEST_CASE("linear: the number of threads changes no bit") {
  Random rnd(3);
  Tensor x = rnd.tensor(150, 200), w = rnd.tensor(300, 200, DType::BF16), dy = rnd.tensor(150, 300);
  for_each_isa([&](Ctx& ctx, Compute) {
    expect_same_for_any_thread_count([&] {
      Tensor y = empty({150, 300}), y1 = empty({1, 300}), dx = zeros({150, 200}),
             dw = zeros({300, 200}), db = zeros({300});
      cpu::linear_fwd(ctx, y, x, w, {});
      cpu::linear_fwd(ctx, y1, x.slice(0, 1), w, {});
      cpu::linear_bwd(ctx, dx, dw, db, dy, x, w);
      return std::vector<Tensor>{y, y1, dx, dw, db};
    });
  });
}

TEST_CASE("parallel_for: every index once, exceptions reach the caller, nested calls are serial") {
  int before = num_threads();
  for (int threads : {1, 2, 4}) {
    set_num_threads(threads);
    for (int64_t n : {0, 1, 7, 1000}) {
      std::vector<int> seen(n);
      parallel_for(n, 3, [&](int64_t lo, int64_t hi) {
        parallel_for(hi - lo, 1, [&](int64_t a, int64_t b) {
          for (int64_t i = lo + a; i < lo + b; ++i) ++seen[i];
        });
      });
      CHECK(seen == std::vector<int>(n, 1));
    }
    CHECK_THROWS_AS(
        parallel_for(100, 1, [](int64_t, int64_t hi) { check(hi <= 50, "block {}", hi); }), Error);
  }
  set_num_threads(before);
}

}  // namespace sutor
