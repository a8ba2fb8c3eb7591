// lora_linear against engine/ref/linear.h and dropout.h, step by step with the operands the kernel
// rounds: every instruction set, weight type, remainder, stride, with and without dropout; thread
// counts. The gradients of the whole are held against differences of the loss in tests/lora.cpp.
// Failed on kernels that masked dx by the wrong row, or not at all.

#include "engine/quant.h"
#include "engine/ref/dropout.h"
#include "engine/ref/linear.h"
#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

namespace {

constexpr float kScale = 0.75f;

struct Problem {
  Tensor x, w, b, a, up, dy;
  int64_t tokens, n, k, rank;
  Problem(int64_t tokens, int64_t n, int64_t k, int64_t rank, DType dtype)
      : tokens(tokens), n(n), k(k), rank(rank) {
    Random rnd(11);
    x = rnd.tensor(tokens, k, DType::F32, 1, 3);
    w = rnd.tensor(n, k, dtype, 1, 5);
    b = rnd.tensor(1, n).view({n});
    a = rnd.tensor(rank, k, DType::F32, 1, 1);
    up = rnd.tensor(n, rank, DType::F32, 1, 2);
    dy = rnd.tensor(tokens, n, DType::F32, 1, 2);
  }
};

Doubles scaled(Doubles v, double f) {
  for (double& d : v) d *= f;
  return v;
}

// As the products take their operands.
Doubles rounded(Doubles v, Compute compute) {
  for (double& d : v) {
    float f = static_cast<float>(d);
    d = compute == Compute::kBF16 ? float(bf16(f)) : f;
  }
  return v;
}

}  // namespace

TEST_CASE("lora_linear: parity with the reference") {
  for (auto [tokens, n, k, rank] : {std::array<int64_t, 4>{1, 7, 9, 3},
                                    {4, 33, 70, 5},
                                    {5, 40, 64, 1},
                                    {37, 50, 300, 16},
                                    {70, 129, 1030, 64},
                                    {33, 600, 260, 40}})
    for (DType dtype : {DType::F32, DType::BF16})
      for (float p : {0.0f, 0.25f}) {
        CAPTURE(tokens);
        CAPTURE(n);
        CAPTURE(k);
        CAPTURE(rank);
        CAPTURE(name_of(dtype));
        CAPTURE(p);
        Problem q(tokens, n, k, rank, dtype);
        Dropout drop{p, 91};
        for_each_isa([&](Ctx& ctx, Compute compute) {
          bool round = compute == Compute::kBF16;
          Doubles dropped(tokens * k), low(tokens * rank), y(tokens * n), more(tokens * n),
              xs = doubles(q.x), a = doubles(q.a, round), up = doubles(q.up, round),
              w = doubles(q.w, round), b = doubles(q.b), dy = doubles(q.dy, round);
          ref::dropout_fwd(dropped.data(), xs.data(), tokens * k, p, drop.seed);
          dropped = rounded(dropped, compute);
          ref::linear_fwd<double>(low.data(), dropped.data(), a.data(), nullptr, tokens, rank, k);
          low = scaled(low, kScale);
          Doubles lows = rounded(low, compute), xr = rounded(xs, compute);
          ref::linear_fwd<double>(y.data(), xr.data(), w.data(), b.data(), tokens, n, k);
          ref::linear_fwd<double>(more.data(), lows.data(), up.data(), nullptr, tokens, n, rank);
          for (size_t i = 0; i < y.size(); ++i) y[i] += more[i];
          Random rnd(5);
          Tensor got = rnd.tensor(tokens, n, DType::F32, 1, 4),
                 got_low = rnd.tensor(tokens, rank, DType::F32, 1, 3);
          cpu::lora_linear_fwd(ctx, got, got_low, q.x, q.w, q.b, q.a, q.up, kScale, drop);
          expect_close(got, y, compute, "y");
          expect_close(got_low, low, compute, "low");

          Tensor dx = rnd.tensor(tokens, k, DType::F32, 1, 1), dw = rnd.tensor(n, k),
                 db = rnd.tensor(1, n).view({n}), da = rnd.tensor(rank, k, DType::F32, 1, 2),
                 dup = rnd.tensor(n, rank, DType::F32, 1, 3);
          Doubles gx = doubles(dx), gw = doubles(dw), gb = doubles(db), ga = doubles(da),
                  gup = doubles(dup), dlow(tokens * rank), dropped_grad(tokens * k),
                  exact = doubles(q.dy), unused(n);
          ref::linear_bwd<double>(gx.data(), gw.data(), unused.data(), dy.data(), xr.data(),
                                  w.data(), tokens, n, k);
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t i = 0; i < n; ++i) gb[i] += exact[t * n + i];
          ref::linear_bwd<double>(dlow.data(), gup.data(), nullptr, dy.data(), lows.data(),
                                  up.data(), tokens, n, rank);
          dlow = rounded(scaled(dlow, kScale), compute);
          ref::linear_bwd<double>(dropped_grad.data(), ga.data(), nullptr, dlow.data(),
                                  dropped.data(), a.data(), tokens, rank, k);
          ref::dropout_bwd(gx.data(), dropped_grad.data(), tokens * k, p, drop.seed);
          cpu::lora_linear_bwd(ctx, dx, dw, db, da, dup, q.dy, q.x, q.w, got_low, q.a, q.up, kScale,
                               drop);
          expect_close(dx, gx, compute, "dx");
          expect_close(dw, gw, compute, "dw");
          expect_close(db, gb, compute, "db");
          expect_close(da, ga, compute, "da");
          expect_close(dup, gup, compute, "dup");
        });
      }
}

TEST_CASE(
    "lora_linear: what isn't wanted is left out and changes no bit of the rest; packed weights as "
    "unpacked ones") {
  Problem q(40, 96, 130, 16, DType::BF16);
  Tensor packed = nf4_tensor(pack_nf4(q.w), q.w.shape, DType::BF16), w = unpacked(packed);
  Dropout drop{0.1f, 5};
  for_each_isa([&](Ctx& ctx, Compute) {
    auto run = [&](const Tensor& weight, bool want_x, bool want_a, bool want_up) {
      Tensor y = empty({40, 96}), low = empty({40, 16}), dx = zeros({40, 130}),
             da = zeros({16, 130}), dup = zeros({96, 16});
      cpu::lora_linear_fwd(ctx, y, low, q.x, weight, {}, q.a, q.up, kScale, drop);
      cpu::lora_linear_bwd(ctx, want_x ? dx : Tensor{}, {}, {}, want_a ? da : Tensor{},
                           want_up ? dup : Tensor{}, q.dy, want_a ? q.x : Tensor{}, weight, low,
                           q.a, q.up, kScale, drop);
      return std::vector{y, low, dx, da, dup};
    };
    auto all = run(w, true, true, true), nf4 = run(packed, true, true, true);
    for (size_t i = 0; i < all.size(); ++i) CHECK(bits(all[i]) == bits(nf4[i]));
    for (int which = 0; which < 3; ++which) {
      auto one = run(w, which == 0, which == 1, which == 2);
      for (int i = 0; i < 3; ++i)
        CHECK(bits(one[2 + i]) ==
              (i == which ? bits(all[2 + i]) : std::vector<float>(all[2 + i].numel())));
    }
  });
}

TEST_CASE("lora_linear: the number of threads changes no bit; shapes that don't fit are named") {
  Problem q(150, 300, 520, 24, DType::BF16);
  for_each_isa([&](Ctx& ctx, Compute) {
    expect_same_for_any_thread_count([&] {
      Tensor y = empty({150, 300}), low = empty({150, 24}), dx = zeros({150, 520}),
             da = zeros({24, 520}), dup = zeros({300, 24});
      cpu::lora_linear_fwd(ctx, y, low, q.x, q.w, q.b, q.a, q.up, kScale, {0.1f, 3});
      cpu::lora_linear_bwd(ctx, dx, {}, {}, da, dup, q.dy, q.x, q.w, low, q.a, q.up, kScale,
                           {0.1f, 3});
      return std::vector<Tensor>{y, low, dx, da, dup};
    });
  });
  Ctx ctx = cpu_context(Compute::kF32);
  CHECK_THROWS_WITH_AS(cpu::lora_linear_fwd(ctx, empty({150, 300}), empty({150, 24}), q.x, q.w, {},
                                            q.a, q.up.slice(0, 299), kScale, {}),
                       "LoRA: y [150, 300] = x [150, 24] times w [299, 24] transposed", Error);
}

}  // namespace sutor
