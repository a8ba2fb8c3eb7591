// Dropout: kernel against engine/ref/dropout.h, keep rate and scale, the same mask again and in
// backward, where the mask of a place comes from, same bits for every thread count and instruction
// set.
#include "engine/ref/dropout.h"

#include <set>

#include "engine/ops.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

}  // namespace

TEST_CASE("dropout: equal to the specification, forward and backward, strided or not") {
  for (auto [T, H] : {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {7, 259}, {40, 256}, {1, 9001}})
    for (int64_t pad : {0, 3})
      for (float p : {0.0f, 0.1f, 0.75f}) {
        CAPTURE(T);
        CAPTURE(H);
        CAPTURE(p);
        Dropout drop{p, 77};
        Tensor x = random({T, H}, 1, 2, DType::F32, pad), y = random({T, H}, 2, 1, DType::F32, 2),
               dx = random({T, H}, 3, 1, DType::F32, pad);
        Doubles want(T * H), want_dx = dense(dx), xs = dense(x);
        ref::dropout_fwd(want.data(), xs.data(), T * H, p, drop.seed);
        ref::dropout_bwd(want_dx.data(), xs.data(), T * H, p, drop.seed);
        cpu::dropout_fwd(ctx, y, x, drop);
        cpu::dropout_bwd(ctx, dx, x, drop);
        CHECK(near(dense(y), want, 1e-6));
        CHECK(near(dense(dx), want_dx, 1e-6));
      }
  cpu::dropout_bwd(ctx, {}, zeros({2, 2}), {0.5f, 1});  // not wanted
}

TEST_CASE("dropout: the share that stays is 1 - p, times its inverse, everywhere alike") {
  constexpr int64_t kN = 1 << 20;
  Tensor ones = empty({1024, 1024}), y = empty({1024, 1024});
  std::fill_n(ones.f32(), kN, 1.0f);
  for (float p : {0.05f, 0.1f, 0.5f, 0.9f}) {
    CAPTURE(p);
    cpu::dropout_fwd(ctx, y, ones, {p, 1234});
    int64_t kept = 0, by_place[4] = {}, pairs = 0;
    std::set<float> values;
    for (int64_t i = 0; i < kN; ++i) {
      values.insert(y.f32()[i]);
      if (y.f32()[i] == 0) continue;
      ++kept;
      ++by_place[i % 4];
      pairs += i > 0 && y.f32()[i - 1] != 0;
    }
    // Of the p that is drawn: in sixteen bits.
    const uint32_t below = ref::dropout_threshold(p);
    CHECK(values == std::set<float>{0.0f, 65536.0f / static_cast<float>(65536 - below)});
    CHECK(ref::dropout_factor(p, 1234, 0) * (65536 - below) * (y.f32()[0] != 0) ==
          doctest::Approx(65536.0 * (y.f32()[0] != 0)).epsilon(1e-12));
    auto within = [](int64_t got, double q, double n) {  // five standard deviations
      return std::abs(static_cast<double>(got) - q * n) < 5 * std::sqrt(n * q * (1 - q));
    };
    CHECK(within(kept, 1 - p, kN));
    for (int64_t n : by_place) CHECK(within(n, 1 - p, kN / 4));
    CHECK(within(pairs, (1 - p) * (1 - p), kN));  // neighbours do not know of each other
  }
}

TEST_CASE("dropout: another seed is another mask; a NaN that stays is seen, one dropped is not") {
  Tensor x = random({64, 64}, 1), a = empty({64, 64}), b = empty({64, 64});
  cpu::dropout_fwd(ctx, a, x, {0.5f, 1});
  cpu::dropout_fwd(ctx, b, x, {0.5f, 2});
  int64_t same = 0;
  for (int64_t i = 0; i < 4096; ++i) same += (a.f32()[i] == 0) == (b.f32()[i] == 0);
  CHECK(same > 1800);
  CHECK(same < 2300);
  std::fill_n(x.f32(), 4096, NAN);
  cpu::dropout_fwd(ctx, b, x, {0.5f, 1});
  for (int64_t i = 0; i < 4096; ++i) CHECK((a.f32()[i] == 0) == (b.f32()[i] == 0));
  for (float p : {1.0f, 0.999995f})  // of which nothing stays
    CHECK_THROWS_AS(cpu::dropout_fwd(ctx, b, x, {p, 1}), Error);
  CHECK_THROWS_AS(cpu::dropout_fwd(ctx, empty({4, 4}), x, {0.5f, 1}), Error);
}

TEST_CASE("dropout_at: none in evaluation; by step and by place in training") {
  Ctx c = ctx;
  CHECK(dropout_at(c, 0.1f, "a").p == 0);
  c.dropout = 5;
  CHECK(dropout_at(c, 0, "a").p == 0);
  Dropout a = dropout_at(c, 0.1f, "a"), again = dropout_at(c, 0.1f, "a");
  CHECK(a.p == 0.1f);
  CHECK(a.seed == again.seed);
  CHECK(a.seed != dropout_at(c, 0.1f, "b").seed);
  c.dropout = 6;
  CHECK(a.seed != dropout_at(c, 0.1f, "a").seed);
  CHECK_THROWS_WITH_AS(dropout_at(c, 1, "some.weight"),
                       "dropout at some.weight: 1 is no probability or leaves nothing", Error);
  CHECK_THROWS_WITH_AS(dropout_at(c, 0.999995f, "some.weight"),
                       "dropout at some.weight: 0.999995 is no probability or leaves nothing",
                       Error);
  CHECK_THROWS_WITH_AS(dropout_at(c, -0.5f, "some.weight"),
                       "dropout at some.weight: -0.5 is no probability or leaves nothing", Error);
}

TEST_CASE("dropout: the same bits for every thread count and instruction set") {
  Tensor x = random({301, 130}, 1), narrow = random({301, 130}, 1, 1, DType::F32, 7);
  check_bitwise([&] {
    Tensor y = empty({301, 130}), dx = random({301, 130}, 4), z = empty({301, 130});
    cpu::dropout_fwd(ctx, y, x, {0.1f, 9});
    cpu::dropout_bwd(ctx, dx, x, {0.1f, 9});
    cpu::dropout_fwd(ctx, z, narrow, {0.1f, 9});
    CHECK(same_bits(y, z));  // x and narrow hold the same, at other distances
    return std::vector{y, dx, z};
  });
}
