// Micro-kernels for AVX-512 F/BW/VL/DQ: f32, for bf16 compute on operands rounded while packing.

#include "engine/cpu/isa/vec16.h"

namespace sutor::cpu {

const MicroKernels kAvx512Kernels[2] = {table<Mode::kF32, Vec16>(block_fma<Vec16>, false, 24),
                                        table<Mode::kRounded, Vec16>(block_fma<Vec16>, false, 24)};

}  // namespace sutor::cpu
