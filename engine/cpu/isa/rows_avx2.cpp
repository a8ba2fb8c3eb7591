// The row kernels compiled with AVX2.
#include "engine/cpu/isa/rows.h"

namespace sutor::cpu {

const RowKernels kRowsAvx2 = table("avx2");

}  // namespace sutor::cpu
