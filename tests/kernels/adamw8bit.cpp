// AdamW with moments in 8 bits: each step against engine/ref/adamw8bit.h from the same state,
// blocks of zeros and short tails, a minimum found as well as with 32 bits, same bits for every
// thread count and instruction set. bitsandbytes' own steps: tests/optimizer.cpp.
#include "engine/ref/adamw8bit.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

AdamWStep step_at(int t, double weight_decay, double grad_scale, double lr = 1e-2) {
  return {.lr = lr,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-8,
          .weight_decay = weight_decay,
          .grad_scale = grad_scale,
          .bias1 = 1 - std::pow(0.9, t),
          .bias2 = 1 - std::pow(0.95, t)};
}

struct State {
  Tensor m, v, m_scale, v_scale;
  explicit State(int64_t n)
      : m(zeros({n}, DType::U8)),
        v(zeros({n}, DType::U8)),
        m_scale(zeros({(n + 255) / 256})),
        v_scale(zeros({(n + 255) / 256})) {}
};

void step(const Tensor& value, const Tensor& master, State& s, const Tensor& grad, AdamWStep a) {
  cpu::adamw8bit_step(ctx, value, master, s.m, s.v, s.m_scale, s.v_scale, grad, a);
}

}  // namespace

TEST_CASE("adamw8bit_step: each of twenty steps equals the specification") {
  for (int64_t n : {1, 255, 256, 257, 5000})
    for (DType type : {DType::F32, DType::BF16}) {
      CAPTURE(n);
      Tensor master = random({n}, 1), value = type == DType::F32 ? master : cast(master, type);
      State s(n);
      int64_t other = 0;
      for (int t = 1; t <= 20; ++t) {
        Tensor grad = random({n}, 100 + t, 1e-3);
        for (int64_t i = 256; i < std::min<int64_t>(n, 512); ++i) grad.f32()[i] = 0;  // one block
        for (int64_t i = 0; i < n; i += 3) grad.f32()[i] *= 1e-3f;
        AdamWStep a = step_at(t, 0.1, 0.7);
        ref::AdamW<double> r{a.lr,           a.beta1,      a.beta2, a.eps,
                             a.weight_decay, a.grad_scale, a.bias1, a.bias2};
        Doubles w = dense(master), ms = dense(s.m_scale), vs = dense(s.v_scale), g = dense(grad);
        std::vector<uint8_t> m(s.m.as<uint8_t>(), s.m.as<uint8_t>() + n),
            v(s.v.as<uint8_t>(), s.v.as<uint8_t>() + n);
        ref::adamw8bit_step(w.data(), m.data(), v.data(), ms.data(), vs.data(), g.data(), n, r);
        step(value, master, s, grad, a);
        CHECK(near(dense(master), w, 1e-6));
        CHECK(near(dense(s.m_scale), ms, 5e-6));  // m cancels against the gradient
        CHECK(near(dense(s.v_scale), vs, 1e-6));
        for (int64_t i = 0; i < n; ++i) {
          int dm = s.m.as<uint8_t>()[i] - m[i], dv = s.v.as<uint8_t>()[i] - v[i];
          CHECK(std::abs(dm) <= 1);  // a value at the boundary of two codes, to a float's rounding
          CHECK(std::abs(dv) <= 1);
          other += (dm != 0) + (dv != 0);
        }
        if (type == DType::BF16) CHECK(same_bits(value, cast(master, DType::BF16)));
      }
      CHECK(other <= n / 1000);
      if (n == 5000) CHECK(s.m_scale.f32()[1] == 0);
    }
}

// Slopes a decade apart: v spans two of the seven decades that a block's codes have. An element
// whose gradients are 1e-4 of its block's largest has a v of 0, and steps many times too long: so
// does bitsandbytes.
TEST_CASE("adamw8bit_step: finds the minimum of a quadratic as 32-bit moments do") {
  constexpr int64_t kN = 4096;
  Tensor target = random({kN}, 3), slope = random({kN}, 4), start = random({kN}, 5, 2);
  for (int64_t i = 0; i < kN; ++i) slope.f32()[i] = std::pow(10.0f, 0.5f * slope.f32()[i]);
  auto run = [&](bool narrow) {
    Tensor w = clone(start), g = empty({kN}), m = zeros({kN}), v = zeros({kN});
    State s(kN);
    for (int t = 1; t <= 400; ++t) {
      for (int64_t i = 0; i < kN; ++i) g.f32()[i] = slope.f32()[i] * (w.f32()[i] - target.f32()[i]);
      AdamWStep a = step_at(t, 0, 1, 0.05 * (1 - (t - 1) / 400.0));
      if (narrow)
        step(w, w, s, g, a);
      else
        cpu::adamw_step(ctx, w, w, m, v, g, a);
    }
    double loss = 0;
    for (int64_t i = 0; i < kN; ++i) {
      double d = w.f32()[i] - target.f32()[i];
      loss += d * d / kN;
    }
    return std::sqrt(loss);
  };
  double wide = run(false), narrow = run(true);
  CAPTURE(wide);
  CAPTURE(narrow);
  CHECK(wide < 1e-3);
  CHECK(narrow < 5e-2);
}

// Half way between two bf16 values, the lower one even: the rest has no 2^15.
TEST_CASE(
    "adamw8bit_step: a master of 16 bits beside the bf16 value is the F32 one, to a tie's last "
    "bit") {
  constexpr int64_t kN = 5000;
  auto joined = [](const Tensor& value, const Tensor& rest, int64_t i) {
    return (static_cast<uint32_t>(value.as<bf16>()[i].bits) << 16) +
           static_cast<uint32_t>(int32_t{rest.as<int16_t>()[i]});
  };
  Tensor start = cast(random({kN}, 1), DType::BF16), master = cast(start, DType::F32),
         value = clone(start), narrow = clone(start), rest = zeros({kN}, DType::I16);
  State s(kN), t(kN);
  int64_t other = 0;
  for (int at = 1; at <= 30; ++at) {
    Tensor grad = random({kN}, 100 + at, 1e-3);
    step(value, master, s, grad, step_at(at, 0.1, 1, 1e-3));
    step(narrow, rest, t, grad, step_at(at, 0.1, 1, 1e-3));
    for (int64_t i = 0; i < kN; ++i) {
      auto far = std::bit_cast<uint32_t>(master.f32()[i]) - joined(narrow, rest, i);
      CHECK(far + 4 <= 8);  // a tie's bit, carried on
      other += far != 0;
    }
  }
  CHECK(other < kN * 30 / 1000);
  CHECK(near(dense(narrow), dense(value), 1e-6));

  Tensor one = empty({1}, DType::BF16), half = zeros({1}, DType::I16);
  one.as<bf16>()[0] = bf16(1.0f);
  half.as<int16_t>()[0] = 32767;
  State u(1);
  step(one, half, u, zeros({1}), step_at(1, 0, 1));
  CHECK(joined(one, half, 0) == 0x3f807fff);  // stays
  CHECK_THROWS_WITH_AS(step(master, rest, s, master, step_at(1, 0, 1)),
                       "adamw: a F32 value needs to be its own master", Error);
}

TEST_CASE("adamw8bit_step: sizes and types must fit") {
  Tensor w = zeros({300}), g = zeros({300});
  State s(300), one(256);
  std::swap(s.m_scale, one.m_scale);
  CHECK_THROWS_WITH_AS(step(w, w, s, g, step_at(1, 0, 1)),
                       "adamw: [300] with 1 and 2 scales of moments, 2 expected", Error);
  std::swap(s.m_scale, one.m_scale);
  CHECK_THROWS_AS(step(zeros({300}), w, s, g, step_at(1, 0, 1)), Error);
  s.v = zeros({300});
  CHECK_THROWS_AS(step(w, w, s, g, step_at(1, 0, 1)), Error);
}

TEST_CASE("adamw8bit_step: the same bits for every thread count and instruction set") {
  check_bitwise([&] {
    Tensor w = random({70001}, 1), g = random({70001}, 3, 1e-3), value = cast(w, DType::BF16);
    State s(70001);
    for (int t = 1; t < 4; ++t) step(value, w, s, g, step_at(t, 0.1, 0.5));
    return std::vector{w, value, s.m, s.v, s.m_scale, s.v_scale};
  });
}
