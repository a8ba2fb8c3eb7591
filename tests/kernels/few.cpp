// Few tokens: dot products with packed tokens are those of decoding to the bit, so a batch of them
// gives each the result it has alone; products with columns of rows as they lie are those with
// packed panels. Every instruction set, weight type, tail and stride. Parity with the reference:
// linear.cpp, moe_ffn.cpp.

#include "engine/cpu/gemm.h"
#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

TEST_CASE("few tokens: together they are multiplied as each alone") {
  for (int64_t k : {1, 17, 64, 131, 400})
    for (DType dtype : {DType::F32, DType::BF16, DType::F16}) {
      constexpr int64_t kRows = 23;
      Random rnd(4);
      Tensor w = rnd.tensor(kRows, k, dtype, 1, 3),
             x = rnd.tensor(cpu::kMostDots, k, DType::F32, 1, 2), b = rnd.tensor(1, kRows);
      for_each_isa([&](Ctx& ctx, Compute compute) {
        const int64_t few = cpu::micro_kernels(compute).few;
        CHECK(few <= cpu::kMostDots);
        for (int64_t n = 1; n <= few; ++n) {
          CAPTURE(k);
          CAPTURE(n);
          Tensor y = empty({n, kRows}), one = empty({1, kRows});
          cpu::linear_fwd(ctx, y, x.slice(0, n), w, b.view({kRows}));
          for (int64_t t = 0; t < n; ++t) {
            cpu::linear_fwd(ctx, one, x.slice(t, t + 1), w, b.view({kRows}));
            CHECK(bits(one) == bits(y.slice(t, t + 1)));
          }
        }
      });
    }
}

TEST_CASE("few tokens: an expert multiplies them as each alone") {
  constexpr int64_t kTokens = 13, kHidden = 72, kInter = 44;
  Random rnd(6);
  ExpertWeights w{{rnd.tensor(kInter, kHidden, DType::BF16)},
                  {rnd.tensor(kInter, kHidden, DType::BF16, 1, 4)},
                  {rnd.tensor(kHidden, kInter, DType::BF16)}};
  Tensor x = rnd.tensor(kTokens, kHidden), weight = rnd.tensor(kTokens, 1);
  auto index = [](int64_t n) { return sort_by_expert(zeros({n, 1}, DType::I32), 1); };
  for_each_isa([&](Ctx& ctx, Compute compute) {
    if (cpu::micro_kernels(compute).few < kTokens) return;
    Tensor y = empty(x.shape), gate = empty({kTokens, kInter}, DType::BF16), up = empty_like(gate);
    cpu::moe_ffn_fwd(ctx, y, gate, up, x, weight, index(kTokens), w);
    for (int64_t t = 0; t < kTokens; ++t) {
      Tensor one = empty({1, kHidden}), g = empty({1, kInter}, DType::BF16), u = empty_like(g);
      cpu::moe_ffn_fwd(ctx, one, g, u, x.slice(t, t + 1), weight.slice(t, t + 1), index(1), w);
      CHECK(bits(one) == bits(y.slice(t, t + 1)));
      CHECK(bits(g) == bits(gate.slice(t, t + 1)));
      CHECK(bits(u) == bits(up.slice(t, t + 1)));
    }
  });
}

TEST_CASE("few tokens: rows as they lie give what packed panels give") {
  for (int64_t p : {1, 16, 37, 200})
    for (DType dtype : {DType::F32, DType::BF16, DType::F16}) {
      constexpr int64_t kColumns = 96;
      Random rnd(8);
      Tensor w = rnd.tensor(p, kColumns, dtype, 1, 5), dy = rnd.tensor(32, p);
      for_each_isa([&](Ctx&, Compute compute) {
        const cpu::MicroKernels& mk = cpu::micro_kernels(compute);
        if (!mk.block_rows) return;
        cpu::Panels a = cpu::pack_along(mk, cpu::rows_of(dy), 32, p, false),
                    b = cpu::pack_across(mk, cpu::rows_of(w), kColumns, p, true);
        for (int lines : {1, 4, 5, 12, 16, 17, 24, 31, 32})
          for (bool more : {false, true}) {
            CAPTURE(p);
            CAPTURE(lines);
            alignas(64) float got[1024], want[1024];
            for (int i = 0; i < 1024; ++i)
              got[i] = want[i] = more ? static_cast<float>(i % 7) : NAN;
            cpu::Rows rows = cpu::rows_of(w);
            rows.data = w.data + 32 * size_of(dtype);
            cpu::Fetch fetch{static_cast<const char*>(rows.data), w.ld * size_of(dtype), 3};
            mk.block_rows(got, cpu::tiles(a.at(0), a.steps, lines), rows, p, more, fetch);
            mk.block(want, cpu::tiles(a.at(0), a.steps, lines), cpu::tiles(b.at(1), b.steps),
                     a.steps, more);
            CHECK(std::equal(got, got + lines * 32, want));
            if (!more)
              CHECK(std::all_of(got + (lines + 3) / 4 * 128, got + 1024,
                                [](float f) { return f == 0; }));
          }
      });
    }
}

}  // namespace sutor
