#pragma once
// The shapes that every implementation of the matrix kernels is held to, and that the benchmark
// walks. Some are wide enough for packing in runs (608) and fit the kernels that read weights as
// they lie (multiples of 32). The long ones are worked off in several runs of P with more than
// eight panels of sums held (engine/cpu/gemm.h, sweep) on every machine: 4200 are more than 128
// tiles of 32.

#include <cstdint>

namespace sutor::problems {

struct Linear {
  int64_t tokens, n, k;
};
inline constexpr Linear kLinear[] = {
    {0, 40, 24},     {1, 48, 20},     {1, 131, 131},  {3, 7, 1},     {4, 64, 256},  {5, 33, 17},    {32, 32, 32},
    {256, 80, 96},   {257, 80, 96},  {33, 65, 31},  {70, 131, 48}, {129, 96, 160}, {265, 34, 4200},
    {265, 4200, 34}, {4200, 34, 33}, {12, 75, 200}, {16, 610, 96}, {23, 96, 608},  {8, 33, 70},
};

enum class Routing {
  kRandom,
  kOneExpert,
  kSkewed
};  // skewed: one expert empty, most tokens on another
struct Moe {
  int64_t tokens, hidden, inter, experts, top_k;
  Routing routing;
};
inline constexpr Moe kMoe[] = {
    {1, 48, 20, 4, 2, Routing::kRandom},        {1, 33, 17, 3, 1, Routing::kOneExpert},
    {7, 64, 48, 8, 3, Routing::kSkewed},        {40, 131, 20, 4, 1, Routing::kOneExpert},
    {65, 48, 131, 5, 2, Routing::kSkewed},      {96, 64, 64, 6, 4, Routing::kRandom},
    {270, 4200, 34, 3, 1, Routing::kOneExpert}, {270, 34, 4200, 3, 1, Routing::kOneExpert},
    {30, 96, 72, 5, 2, Routing::kRandom},       {19, 160, 608, 3, 1, Routing::kOneExpert},
    {70, 608, 40, 3, 1, Routing::kOneExpert},   {70, 48, 608, 3, 1, Routing::kOneExpert},
};

// The expert of token t's k-th place.
inline constexpr int64_t expert_of(const Moe& p, int64_t t, int64_t k) {
  if (p.routing == Routing::kOneExpert) return 1 + k;
  if (p.routing == Routing::kSkewed)
    return k == 0 ? 1 : 2 + (t / 5 + k) % (p.experts - 2);  // 0 is empty
  return (t * 7 + t / 3 + k) % p.experts;
}

struct Attention {
  int64_t tq, tk, heads, kv_heads, d, dv,
      document;  // a new document every `document` tokens (0: one)
};
inline constexpr Attention kAttention[] = {
    {1, 1, 1, 1, 8, 8, 0},       {1, 70, 4, 2, 64, 64, 0},  {3, 40, 4, 4, 20, 12, 0},
    {5, 5, 6, 2, 16, 16, 2},     {64, 64, 2, 1, 32, 32, 0}, {97, 97, 4, 2, 48, 32, 41},
    {40, 100, 3, 3, 24, 16, 37},
};

}  // namespace sutor::problems
