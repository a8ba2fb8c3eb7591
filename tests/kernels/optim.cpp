// AdamW: twenty steps against engine/ref/optim.h in double, bf16 values, and torch's numbers for
// one hand-made element.
#include "engine/ref/optim.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

AdamWStep step_at(int t, double weight_decay, double grad_scale) {
  return {.lr = 1e-2,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-8,
          .weight_decay = weight_decay,
          .grad_scale = grad_scale,
          .bias1 = 1 - std::pow(0.9, t),
          .bias2 = 1 - std::pow(0.95, t)};
}

}  // namespace

TEST_CASE("adamw_step: twenty steps equal the specification, weights, moments and rounded values") {
  for (int64_t n : {1, 3, 17, 1000})
    for (double decay : {0.0, 0.1})
      for (DType type : {DType::F32, DType::BF16}) {
        CAPTURE(n);
        CAPTURE(decay);
        Tensor master = random({n}, 1), m = zeros({n}), v = zeros({n});
        Tensor value = type == DType::F32 ? master : cast(master, type);
        Doubles w = dense(master), rm(n), rv(n);
        for (int t = 1; t <= 20; ++t) {
          Tensor grad = random({n}, 100 + t, 1e-3);
          AdamWStep s = step_at(t, decay, 0.7);
          ref::AdamW<double> r{s.lr,           s.beta1,      s.beta2, s.eps,
                               s.weight_decay, s.grad_scale, s.bias1, s.bias2};
          Doubles g = dense(grad);
          ref::adamw_step(w.data(), rm.data(), rv.data(), g.data(), n, r);
          cpu::adamw_step(ctx, value, master, m, v, grad, s);
        }
        CHECK(near(dense(master), w, 1e-6));
        CHECK(near(dense(m), rm, 1e-6));
        CHECK(near(dense(v), rv, 2e-6));
        if (type == DType::BF16) CHECK(same_bits(value, cast(master, DType::BF16)));
      }
}

TEST_CASE(
    "adamw_step: the first step moves by lr against the sign, whatever the gradient; decay comes "
    "first") {
  Tensor w = zeros({3}), m = zeros({3}), v = zeros({3}), g = empty({3});
  float start[] = {1, -2, 3}, grad[] = {1e-4f, -5, 0};
  std::copy(start, start + 3, w.f32());
  std::copy(grad, grad + 3, g.f32());
  cpu::adamw_step(ctx, w, w, m, v, g, step_at(1, 0.1, 1));
  CHECK(near(dense(w),
             {1 * 0.999 - 1e-2 * (1e-5 / 0.1) / (1e-4 + 1e-8), -2 * 0.999 + 1e-2, 3 * 0.999},
             1e-6));
}

TEST_CASE("adamw_step: a value that is not its master must be bf16, and sizes must fit") {
  Tensor w = zeros({4}), m = zeros({4}), v = zeros({4}), g = zeros({4});
  CHECK_THROWS_AS(cpu::adamw_step(ctx, zeros({4}), w, m, v, g, step_at(1, 0, 1)), Error);
  CHECK_THROWS_AS(cpu::adamw_step(ctx, zeros({4}, DType::F16), w, m, v, g, step_at(1, 0, 1)),
                  Error);
  CHECK_THROWS_AS(cpu::adamw_step(ctx, w, w, m, v, zeros({3}), step_at(1, 0, 1)), Error);
}

TEST_CASE("adamw_step: the same bits for every thread count and instruction set") {
  check_bitwise([&] {
    Tensor w = random({70001}, 1), m = random({70001}, 2, 1e-3), v = zeros({70001}),
           g = random({70001}, 3, 1e-3);
    cpu::adamw_step(ctx, w, w, m, v, g, step_at(3, 0.1, 0.5));
    Tensor value = cast(w, DType::BF16);
    cpu::adamw_step(ctx, value, w, m, v, g, step_at(4, 0.1, 0.5));
    return std::vector{w, m, v, value};
  });
}
