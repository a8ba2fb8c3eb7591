#pragma once
// The loops behind engine/cpu/quant_table.h: the specification (engine/ref/quant.h) itself, left to
// the vectoriser. Included by one file per instruction set; everything is in an unnamed namespace
// or always inlined, so that no AVX copy of a function can be picked by the linker for a machine
// without AVX.

#include "engine/cpu/isa/quant_dot.h"
#include "engine/cpu/quant_table.h"
#include "engine/ref/quant.h"

namespace sutor::cpu {
namespace {

template <class B>
void to_f32(float* y, const uint8_t* blocks, int64_t n) {
  for (int64_t k = 0; k < n; ++k) B::unpack(blocks + k * B::kBytes, y + k * B::kElements);
}

// As bf16(float) rounds, without its branch: nearly always there is no NaN, whose bits must not be
// rounded.
template <int N>
void round(uint16_t* __restrict y, const float* __restrict x) {
  constexpr int32_t kInfinity = 0x7f800000;
  int32_t nan = 0;
  for (int i = 0; i < N; ++i)
    nan |= (__builtin_bit_cast(int32_t, x[i]) & 0x7fffffff) > kInfinity ? 1 : 0;
  for (int i = 0; i < N; ++i) {
    auto u = __builtin_bit_cast(uint32_t, x[i]);
    y[i] = static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  for (int i = 0; nan && i < N; ++i) {
    auto u = __builtin_bit_cast(uint32_t, x[i]);
    if ((u & 0x7fffffff) > kInfinity) y[i] = static_cast<uint16_t>((u >> 16) | 0x40);
  }
}

// By way of a buffer of 256 weights: of fewer, the rounding would wait for what was stored just
// before.
template <class B>
void to_bf16(uint16_t* y, const uint8_t* blocks, int64_t n) {
  constexpr int64_t kRun = 256 / B::kElements;
  float buffer[256];
  for (; n >= kRun; n -= kRun, y += 256) {
    for (int64_t i = 0; i < kRun; ++i, blocks += B::kBytes)
      B::unpack(blocks, buffer + i * B::kElements);
    round<256>(y, buffer);
  }
  for (; n > 0; --n, y += B::kElements, blocks += B::kBytes) {
    B::unpack(blocks, buffer);
    round<B::kElements>(y, buffer);
  }
}

template <class... B>
constexpr QuantKernels table_of() {
  static_assert(sizeof...(B) == kBlockTypes);
  return {{to_f32<B>...}, {to_bf16<B>...}, {dot<B>...}};
}

constexpr QuantKernels quant_table() {
  return table_of<ref::Q4_0, ref::Q4_1, ref::Q5_0, ref::Q5_1, ref::Q8_0, ref::Q4_K, ref::Q5_K,
                  ref::Q6_K>();
}

}  // namespace
}  // namespace sutor::cpu
