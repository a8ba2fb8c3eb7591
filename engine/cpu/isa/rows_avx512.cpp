// The row kernels compiled with AVX-512.
#include "engine/cpu/isa/rows.h"

namespace sutor::cpu {

const RowKernels kRowsAvx512 = table("avx512");

}  // namespace sutor::cpu
