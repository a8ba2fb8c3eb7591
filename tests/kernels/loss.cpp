// Cross entropy: kernel against engine/ref/loss.h and complex step; untrained tokens, a vocabulary
// of one, extreme logits.
#include "engine/ref/loss.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

}  // namespace

TEST_CASE("cross_entropy: loss and gradient equal the specification and complex step") {
  for (int64_t V : {1, 2, 16, 37, 1000})
    for (double range : {1.0, 30.0, 1000.0})
      for (int64_t pad : {0, 3}) {
        CAPTURE(V);
        CAPTURE(range);
        CAPTURE(pad);
        constexpr int64_t T = 4;
        constexpr float kScale = 0.25f;
        Tensor logits = random({T, V}, V, range, DType::F32, pad), nll = empty({T}),
               labels = empty({T}, DType::I32);
        for (int t = 0; t < T; ++t) labels.i32()[t] = static_cast<int32_t>((t * 13) % V);
        labels.i32()[1] = -100;
        Doubles want(T), grad(T * V), l = dense(logits);
        ref::cross_entropy(want.data(), grad.data(), l.data(), labels.i32(), T, V, double(kScale));
        Tensor before = clone(logits);
        cpu::cross_entropy(ctx, nll, logits, labels, kScale, false);
        CHECK(same_bits(logits, before));
        CHECK(near(dense(nll), want, 1e-6));
        cpu::cross_entropy(ctx, nll, logits, labels, kScale, true);
        CHECK(near(dense(nll), want, 1e-6));
        CHECK(near(dense(logits), grad));
        if (V > 100) continue;
        Doubles step = complex_step(l, Doubles(T, kScale), [&](auto& z) {
          std::vector<Complex> out(T);
          ref::cross_entropy(out.data(), static_cast<Complex*>(nullptr), z.data(), labels.i32(), T,
                             V, Complex(1));
          return out;
        });
        CHECK(near(dense(logits), step));
        CHECK(near(grad, step));
      }
}

TEST_CASE("cross_entropy: rows without a label are zero, all of them or some") {
  Tensor logits = random({3, 50}, 1, 100), nll = random({3}, 2),
         labels = ints({3}, {-100, -1, -100});
  cpu::cross_entropy(ctx, nll, logits, labels, 1, true);
  CHECK(dense(nll) == Doubles(3, 0.0));
  CHECK(dense(logits) == Doubles(150, 0.0));
}

TEST_CASE("cross_entropy: masked logits of minus infinity have neither probability nor gradient") {
  Tensor logits = random({1, 20}, 1), nll = empty({1}), labels = ints({1}, {3});
  for (int v = 10; v < 20; ++v) logits.f32()[v] = -INFINITY;
  cpu::cross_entropy(ctx, nll, logits, labels, 1, true);
  CHECK(std::isfinite(nll.f32()[0]));
  for (int v = 10; v < 20; ++v) CHECK(logits.f32()[v] == 0);
}

TEST_CASE("cross_entropy: a NaN shows, a label outside the vocabulary is refused") {
  Tensor logits = random({1, 20}, 1), nll = empty({1});
  logits.f32()[17] = NAN;
  cpu::cross_entropy(ctx, nll, logits, ints({1}, {3}), 1, false);
  CHECK(std::isnan(nll.f32()[0]));
  CHECK_THROWS_AS(cpu::cross_entropy(ctx, nll, logits, ints({1}, {20}), 1, false), Error);
}

TEST_CASE("cross_entropy: the same bits for every thread count and instruction set") {
  check_bitwise([&] {
    Tensor logits = random({9, 5003}, 1, 5), nll = empty({9}),
           labels = ints({9}, {1, 2, -100, 4, 5002, 6, 7, 0, 9});
    cpu::cross_entropy(ctx, nll, logits, labels, 1.0f / 8, true);
    return std::vector{nll, logits};
  });
}
