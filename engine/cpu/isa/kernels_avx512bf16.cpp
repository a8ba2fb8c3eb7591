// Micro-kernels for AVX512-BF16: vdpbf16ps on pairs along P. Full rate on AMD Zen 4; Intel parts
// that have it slow also have AMX.

#include "engine/cpu/isa/vec16.h"

namespace sutor::cpu {
namespace {

struct Pairs16 : Vec16 {
  static V mac(V c, V a, V b) {
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
  }
};

}  // namespace

const MicroKernels kAvx512Bf16Kernels = table<Mode::kBF16, Vec16>(block_fma<Pairs16>);

}  // namespace sutor::cpu
