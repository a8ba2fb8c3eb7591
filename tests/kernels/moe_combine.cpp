// moe_combine against engine/ref/moe_combine.h; with and without weights, into and onto y; the same
// bits for any number of threads.
#include "engine/ref/moe_combine.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("moe_combine: equals the reference, added to or not, weighted or not") {
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    Ctx ctx = cpu_context(compute);
    for (auto [T, K, H] : {std::array<int64_t, 3>{1, 1, 1}, {5, 2, 33}, {40, 6, 128}, {0, 2, 16}})
      for (bool add : {false, true})
        for (bool weighted : {false, true}) {
          CAPTURE(T);
          Tensor rows = random({T * K, H}, 1), weight = random({T, K}, 2), y = random({T, H}, 3),
                 where = empty({T, K}, DType::I32);
          for (int64_t i = 0; i < T * K; ++i)
            where.i32()[i] = static_cast<int32_t>((i * 7 + 3) % (T * K));
          std::vector<double> want = dense(y), r = dense(rows), w = dense(weight);
          ref::moe_combine(ptr(want), ptr(r), weighted ? ptr(w) : nullptr, where.i32(), T, K, H,
                           add);
          ctx.k->moe_combine_fwd(ctx, y, rows, weighted ? weight : Tensor{}, where, add);
          const std::vector<double> got = dense(y);
          for (size_t i = 0; i < want.size(); ++i)
            CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-5).scale(1));
        }
  }
}
