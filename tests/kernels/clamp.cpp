// Clamping: kernel against engine/ref/clamp.h, gradients against complex step, same bits for every
// thread count.
#include "engine/ref/clamp.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

}  // namespace

TEST_CASE("clamp: equal to the specification, gradients to complex step; the limit itself passes") {
  for (auto [T, H] : {std::pair<int64_t, int64_t>{1, 1}, {1, 33}, {6, 19}, {3, 64}})
    for (int64_t pad : {0, 3}) {
      CAPTURE(T);
      CAPTURE(H);
      Tensor x = random({T, H}, 1, 2, DType::F32, pad), dy = random({T, H}, 3, 1, DType::F32, 2),
             y = random({T, H}, 4, 1, DType::F32, pad);
      x.row(0)[0] = 1.25f;
      constexpr float kLimit = 1.25f;
      Doubles want(T * H), xs = dense(x), dys = dense(dy);
      ref::clamp_fwd(want.data(), xs.data(), kLimit, T * H);
      cpu::clamp_fwd(ctx, y, x, kLimit);
      CHECK(near(dense(y), want, 0));
      Doubles gx = complex_step(xs, dys, [&](const std::vector<Complex>& z) {
        std::vector<Complex> out(z.size());
        ref::clamp_fwd(out.data(), z.data(), kLimit, T * H);
        return out;
      });
      Tensor dx = random({T, H}, 7, 1, DType::F32, pad);
      Doubles want_dx = sum(dense(dx), gx);
      cpu::clamp_bwd(ctx, dx, dy, x, kLimit);
      CHECK(near(dense(dx), want_dx));
      Doubles rx(T * H);
      ref::clamp_bwd(rx.data(), dys.data(), xs.data(), kLimit, T * H);
      CHECK(near(rx, gx));
      CHECK(rx[0] == dys[0]);
    }
}

TEST_CASE("clamp: the same bits for every thread count and instruction set") {
  Tensor x = random({301, 130}, 1, 2), dy = random({301, 130}, 3);
  check_bitwise([&] {
    Tensor y = empty({301, 130}), dx = zeros({301, 130});
    cpu::clamp_fwd(ctx, y, x, 0.7f);
    cpu::clamp_bwd(ctx, dx, dy, x, 0.7f);
    return std::vector{y, dx};
  });
}
