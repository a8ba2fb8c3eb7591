// The sigmoid gate of a row: kernel against engine/ref/gate.h, gradients against complex step, same
// bits for every thread count.
#include "engine/ref/gate.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

}  // namespace

TEST_CASE("gate: equal to the specification, gradients to complex step, each output on its own") {
  for (auto [T, H] : {std::pair<int64_t, int64_t>{1, 1}, {1, 33}, {6, 19}, {3, 64}})
    for (int64_t pad : {0, 3}) {
      CAPTURE(T);
      CAPTURE(H);
      Tensor x = random({T, H}, 1, 2, DType::F32, pad), g = random({T, 1}, 2, 4),
             dy = random({T, H}, 3, 1, DType::F32, 2), y = random({T, H}, 4, 1, DType::F32, pad);
      auto run = [&](const std::vector<Complex>& xs, const std::vector<Complex>& gs) {
        std::vector<Complex> out(T * H);
        ref::gate_fwd(out.data(), xs.data(), gs.data(), T, H);
        return out;
      };
      Doubles want(T * H), xs = dense(x), gs = dense(g), dys = dense(dy);
      ref::gate_fwd(want.data(), xs.data(), gs.data(), T, H);
      cpu::gate_fwd(ctx, y, x, g);
      CHECK(near(dense(y), want, 1e-6));
      Doubles gx = complex_step(xs, dys, [&](auto& z) { return run(z, dense<Complex>(g)); });
      Doubles gg = complex_step(gs, dys, [&](auto& z) { return run(dense<Complex>(x), z); });
      Tensor dx = random({T, H}, 7, 1, DType::F32, pad), dg = random({T, 1}, 8);
      Doubles want_dx = sum(dense(dx), gx), want_dg = sum(dense(dg), gg);
      cpu::gate_bwd(ctx, dx, {}, dy, {}, g);
      cpu::gate_bwd(ctx, {}, dg, dy, x, g);
      CHECK(near(dense(dx), want_dx));
      CHECK(near(dense(dg), want_dg));
      Doubles rx(T * H), rg(T);
      ref::gate_bwd(rx.data(), rg.data(), dys.data(), xs.data(), gs.data(), T, H);
      CHECK(near(rx, gx));
      CHECK(near(rg, gg));
    }
}

TEST_CASE("gate: the same bits for every thread count and instruction set") {
  Tensor x = random({301, 130}, 1), g = random({301, 1}, 2, 5), dy = random({301, 130}, 3);
  check_bitwise([&] {
    Tensor y = empty({301, 130}), dx = zeros({301, 130}), dg = zeros({301, 1});
    cpu::gate_fwd(ctx, y, x, g);
    cpu::gate_bwd(ctx, dx, dg, dy, x, g);
    return std::vector{y, dx, dg};
  });
}
