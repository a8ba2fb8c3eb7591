// Micro-kernels in plain C++ (the compiler's 16-byte vectors): any x86-64, and the yardstick for
// the others.

#include "engine/cpu/isa/micro.h"

namespace sutor::cpu {
namespace {

struct Vec4 {
  typedef float V __attribute__((vector_size(16)));
  static constexpr int kW = 4, kRegisters = 16;
  static V zero() { return V{}; }
  static V load(const float* p) {
    V v;
    std::memcpy(&v, p, 16);
    return v;
  }
  template <class S>
  static V load(const S* p) {
    return V{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
  }
  static V load_words(const uint32_t* p) { return load(reinterpret_cast<const float*>(p)); }
  static V broadcast(const uint32_t* p) {
    float f = float_of(*p);
    return V{f, f, f, f};
  }
  static V mac(V c, V a, V b) { return c + a * b; }
  static V fma(V a, V b, V c) { return c + a * b; }
  static V fma_at(V a, const float* p, V c) { return fma(a, load(p), c); }
  static void store(float* p, V v) { std::memcpy(p, &v, 16); }
  static float sum(V v) { return (v[0] + v[1]) + (v[2] + v[3]); }
};

}  // namespace

const MicroKernels kPortableKernels[2] = {table<Mode::kF32, Vec4>(block_fma<Vec4>, false, 8),
                                          table<Mode::kRounded, Vec4>(block_fma<Vec4>, false, 8)};

}  // namespace sutor::cpu
