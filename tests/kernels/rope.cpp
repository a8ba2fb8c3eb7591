// RoPE: kernel against engine/ref/rope.h, gradient against complex step, rotation keeps lengths.
#include "engine/ref/rope.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

struct Angles {
  Tensor cos, sin;
  Angles(int64_t T, int64_t half) : cos(empty({T, half})), sin(empty({T, half})) {
    Random r{42};
    for (int64_t i = 0; i < T * half; ++i) {
      double a = 3 * r.uniform();
      cos.f32()[i] = static_cast<float>(std::cos(a));
      sin.f32()[i] = static_cast<float>(std::sin(a));
    }
  }
};

}  // namespace

TEST_CASE("rope: forward equals the specification, backward equals complex step") {
  for (int64_t T : {1, 5})
    for (int64_t N : {1, 3})
      for (int64_t D : {2, 6, 32, 70})
        for (bool interleaved : {false, true}) {
          CAPTURE(T);
          CAPTURE(N);
          CAPTURE(D);
          CAPTURE(interleaved);
          int64_t rows = T * N;
          Angles angle(T, D / 2);
          // As in MLA: the last D columns of wider rows, in and out.
          Tensor x = random({rows, D + 4}, 1).columns(4, D + 4),
                 y = random({rows, D + 9}, 2).columns(9, D + 9);
          Doubles want(rows * D), xs = dense(x), c = dense(angle.cos), s = dense(angle.sin);
          ref::rope_fwd(want.data(), xs.data(), c.data(), s.data(), rows, N, D, interleaved);
          cpu::rope_fwd(ctx, y, x, angle.cos, angle.sin, interleaved);
          CHECK(near(dense(y), want, 1e-6));

          Tensor dy = random({rows, D}, 3, 1, DType::F32, 2),
                 dx = random({rows, D}, 4, 1, DType::F32, 1);
          Doubles grad = complex_step(xs, dense(dy), [&](auto& z) {
            std::vector<Complex> out(rows * D), cc = dense<Complex>(angle.cos),
                                                cs = dense<Complex>(angle.sin);
            ref::rope_fwd(out.data(), z.data(), cc.data(), cs.data(), rows, N, D, interleaved);
            return out;
          });
          Doubles of_ref(rows * D), dys = dense(dy), want_dx = sum(dense(dx), grad);
          ref::rope_bwd(of_ref.data(), dys.data(), c.data(), s.data(), rows, N, D, interleaved);
          cpu::rope_bwd(ctx, dx, dy, angle.cos, angle.sin, interleaved);
          CHECK(near(dense(dx), want_dx));
          CHECK(near(of_ref, grad));
        }
}

TEST_CASE("rope: position 0 only reorders, and only when interleaved") {
  Tensor cos = empty({1, 3}), sin = zeros({1, 3}), x = empty({1, 6}), y = empty({1, 6});
  for (int i = 0; i < 3; ++i) cos.f32()[i] = 1;
  for (int i = 0; i < 6; ++i) x.f32()[i] = static_cast<float>(i);
  cpu::rope_fwd(ctx, y, x, cos, sin, false);
  CHECK(dense(y) == Doubles{0, 1, 2, 3, 4, 5});
  cpu::rope_fwd(ctx, y, x, cos, sin, true);
  CHECK(dense(y) == Doubles{0, 2, 4, 1, 3, 5});
}

TEST_CASE("rope: angles that do not fit are refused") {
  Tensor x = zeros({4, 6}), y = zeros({4, 6});
  Angles narrow(2, 2), many(3, 3);
  CHECK_THROWS_AS(cpu::rope_fwd(ctx, y, x, narrow.cos, narrow.sin, false), Error);
  CHECK_THROWS_AS(cpu::rope_fwd(ctx, y, x, many.cos, many.sin, false), Error);
}

TEST_CASE("rope: the same bits for every thread count and instruction set") {
  Angles angle(120, 35);
  Tensor x = random({480, 70}, 1);
  for (bool interleaved : {false, true})
    check_bitwise([&] {
      Tensor y = empty({480, 70}), dx = zeros({480, 70});
      cpu::rope_fwd(ctx, y, x, angle.cos, angle.sin, interleaved);
      cpu::rope_bwd(ctx, dx, x, angle.cos, angle.sin, interleaved);
      return std::vector{y, dx};
    });
}
