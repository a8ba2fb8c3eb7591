// RMSNorm: kernel against engine/ref/norm.h, gradients against complex step, same bits for every thread count.
#include "engine/ref/norm.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);
constexpr float kEps = 1e-6f;

Doubles forward(const Tensor& x, const Tensor& w, float eps, Doubles& rstd) {
  Doubles y(x.numel()), xs = dense(x), ws = dense(w);
  rstd.resize(x.rows());
  ref::norm_fwd(y.data(), rstd.data(), xs.data(), ws.data(), x.rows(), x.cols(), eps);
  return y;
}

}  // namespace

TEST_CASE("norm_fwd: equal to the specification at any width, stride, size of x and type of w") {
  for (int64_t T : {1, 7})
    for (int64_t H : {1, 2, 15, 17, 64, 129})
      for (int64_t pad : {0, 3})
        for (DType type : {DType::F32, DType::BF16})
          for (double scale : {1e-3, 1.0, 1e4}) {
            CAPTURE(T); CAPTURE(H); CAPTURE(pad); CAPTURE(scale);
            Tensor x = random({T, H}, T * H, scale, DType::F32, pad), w = random({H}, 5, 2, type), rstd = empty({T});
            Tensor y = random({T, H}, 3, 1, DType::F32, pad);
            Doubles r, want = forward(x, w, kEps, r);
            cpu::norm_fwd(ctx, y, rstd, x, w, kEps);
            CHECK(near(dense(y), want, 1e-6));
            CHECK(near(dense(rstd), r, 1e-6));
            cpu::norm_fwd(ctx, y, {}, x, w, kEps);
            CHECK(near(dense(y), want, 1e-6));
          }
}

TEST_CASE("norm_fwd: a zero row stays zero") {
  Tensor x = zeros({2, 8}), w = random({8}, 1), y = empty({2, 8}), rstd = empty({2});
  cpu::norm_fwd(ctx, y, rstd, x, w, kEps);
  for (double v : dense(y)) CHECK(v == 0);
  CHECK(rstd.f32()[0] == doctest::Approx(1e3));
}

TEST_CASE("norm_bwd: equal to complex step, adding to what is there, each output on its own") {
  for (auto [T, H] : {std::pair<int64_t, int64_t>{1, 3}, {1, 33}, {6, 19}, {3, 64}}) {
    CAPTURE(T); CAPTURE(H);
    Tensor x = random({T, H}, 1, 2, DType::F32, 5), w = random({H}, 2), dy = random({T, H}, 3, 1, DType::F32, 2);
    Tensor y = empty({T, H}), rstd = empty({T});
    cpu::norm_fwd(ctx, y, rstd, x, w, kEps);
    auto run = [&](const std::vector<Complex>& xs, const std::vector<Complex>& ws) {
      std::vector<Complex> out(T * H);
      ref::norm_fwd(out.data(), static_cast<Complex*>(nullptr), xs.data(), ws.data(), T, H, kEps);
      return out;
    };
    Doubles gx = complex_step(dense(x), dense(dy), [&](auto& z) { return run(z, dense<Complex>(w)); });
    Doubles gw = complex_step(dense(w), dense(dy), [&](auto& z) { return run(dense<Complex>(x), z); });
    Tensor dx = random({T, H}, 7, 1, DType::F32, 1), dw = random({H}, 8);
    Doubles want_dx = sum(dense(dx), gx), want_dw = sum(dense(dw), gw);
    cpu::norm_bwd(ctx, dx, {}, dy, x, w, rstd);
    cpu::norm_bwd(ctx, {}, dw, dy, x, w, rstd);
    CHECK(near(dense(dx), want_dx));
    CHECK(near(dense(dw), want_dw));
    Doubles rx(T * H), rw(H), r, dys = dense(dy), xs = dense(x), ws = dense(w);
    forward(x, w, kEps, r);  // rstd in double: with one column dx is all cancellation
    ref::norm_bwd(rx.data(), rw.data(), dys.data(), xs.data(), ws.data(), r.data(), T, H);
    CHECK(near(rx, gx));
    CHECK(near(rw, gw));
  }
}

TEST_CASE("norm: the same bits for every thread count and instruction set") {
  Tensor x = random({301, 130}, 1), w = random({130}, 2), dy = random({301, 130}, 3);
  check_bitwise([&] {
    Tensor y = empty({301, 130}), rstd = empty({301}), dx = zeros({301, 130}), dw = zeros({130});
    cpu::norm_fwd(ctx, y, rstd, x, w, kEps);
    cpu::norm_bwd(ctx, dx, dw, dy, x, w, rstd);
    return std::vector{y, rstd, dx, dw};
  });
}
