// Quantised blocks: the kernels of every instruction set against engine/ref/quant.h, bit by bit,
// whatever the bytes; rows in another order; any number of threads. (What ggml makes of them:
// tests/gguf.cpp.)
#include "engine/quant.h"

#include <cstring>
#include <random>

#include "engine/ref/quant.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

struct Case {
  const char* name;
  void (*unpack)(const uint8_t*, float*);
  std::vector<int> halves;  // where f16 lie in a block
};
const Case kCases[] = {
    {"Q4_0", ref::Q4_0::unpack, {0}},    {"Q4_1", ref::Q4_1::unpack, {0, 2}},
    {"Q5_0", ref::Q5_0::unpack, {0}},    {"Q5_1", ref::Q5_1::unpack, {0, 2}},
    {"Q8_0", ref::Q8_0::unpack, {0}},    {"Q4_K", ref::Q4_K::unpack, {0, 2}},
    {"Q5_K", ref::Q5_K::unpack, {0, 2}}, {"Q6_K", ref::Q6_K::unpack, {208}},
};

}  // namespace

TEST_CASE("quant: blocks of every type unpack to the specification's bits on every ISA") {
  std::mt19937 rng(3);
  for (const Case& c : kCases) {
    CAPTURE(c.name);
    const BlockFormat& f = *block_format(c.name);
    // 13 blocks: runs of 256 weights and what is left. The scales: halves of every exponent, NaN
    // too.
    int64_t R = f.elements == 32 ? 1261 : 161, per_row = 13, n = R * per_row,
            C = per_row * f.elements;
    std::vector<uint8_t> bytes(n * f.bytes);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
    for (int64_t k = 0; k < n; ++k)
      for (size_t h = 0; h < c.halves.size(); ++h) {
        // Where two halves are not numbers it depends on the compiler which one is the result.
        auto half = static_cast<uint16_t>(h == 0 ? k * 65537 / n : rng() % 0x7c00);
        std::memcpy(&bytes[k * f.bytes + c.halves[h]], &half, 2);
      }
    Tensor want = empty({R, C});
    for (int64_t k = 0; k < n; ++k) c.unpack(&bytes[k * f.bytes], want.f32() + k * f.elements);
    std::vector<int32_t> rows(R);
    for (int64_t r = 0; r < R; ++r) rows[r] = static_cast<int32_t>((r * 3 + 1) % R);
    const auto* in = reinterpret_cast<const std::byte*>(bytes.data());
    check_bitwise([&] {
      Tensor exact = empty({R, C}), rounded = empty({R, C}, DType::BF16), turned = empty({R, C});
      unpack_blocks(exact, in, f.type);
      unpack_blocks(rounded, in, f.type);
      unpack_blocks(turned, in, f.type, rows.data());
      CHECK(same_bits(exact, want));
      CHECK(same_bits(rounded, cast(want, DType::BF16)));
      bool moved = true;
      for (int64_t r = 0; r < R; ++r)
        moved = moved && same_bits(turned.slice(r, r + 1), want.slice(rows[r], rows[r] + 1));
      CHECK(moved);
      return std::vector<Tensor>{exact, rounded, turned};
    });
  }
}
