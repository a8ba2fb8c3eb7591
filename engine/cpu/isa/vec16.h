#pragma once
// The 16-lane vector of the AVX-512 files.

#include "engine/cpu/isa/micro.h"

namespace sutor::cpu {
namespace {

struct Vec16 {
  using V = __m512;
  static constexpr int kW = 16, kRegisters = 32;
  static V zero() { return _mm512_setzero_ps(); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V load(const bf16* p) {
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  }
  static V load(const f16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static V load_words(const uint32_t* p) { return _mm512_load_ps(p); }
  static V broadcast(const uint32_t* p) { return _mm512_set1_ps(float_of(*p)); }
  static V mac(V c, V a, V b) { return _mm512_fmadd_ps(a, b, c); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V fma_at(V a, const float* p, V c) { return fma(a, load(p), c); }
  static void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static float sum(V v) { return _mm512_reduce_add_ps(v); }
};

}  // namespace
}  // namespace sutor::cpu
