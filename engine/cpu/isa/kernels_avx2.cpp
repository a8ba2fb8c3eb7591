// Micro-kernels for AVX2 + FMA: f32, for bf16 compute on operands rounded while packing.

#include <immintrin.h>

#include "engine/cpu/isa/micro.h"

namespace sutor::cpu {
namespace {

struct Vec8 {
  using V = __m256;
  static constexpr int kW = 8, kRegisters = 16;
  static V zero() { return _mm256_setzero_ps(); }
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static V load(const bf16* p) {
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
  }
  static V load(const f16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static V load_words(const uint32_t* p) {
    return _mm256_load_ps(reinterpret_cast<const float*>(p));
  }
  static V broadcast(const uint32_t* p) {
    return _mm256_broadcast_ss(reinterpret_cast<const float*>(p));
  }
  static V mac(V c, V a, V b) { return _mm256_fmadd_ps(a, b, c); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  // By hand: the compiler would rather keep the operand in a register and spill a sum.
  static V fma_at(V a, const float* p, V c) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "m"(*reinterpret_cast<const V*>(p)));
    return c;
  }
  static void store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static float sum(V v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
};

constexpr int kFew = 24;

}  // namespace

const MicroKernels kAvx2Kernels[2] = {table<Mode::kF32, Vec8>(block_fma<Vec8>, false, kFew),
                                      table<Mode::kRounded, Vec8>(block_fma<Vec8>, false, kFew)};

}  // namespace sutor::cpu
