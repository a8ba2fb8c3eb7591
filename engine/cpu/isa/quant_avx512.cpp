// The unpacking of blocks compiled with AVX-512.
#include "engine/cpu/isa/quant.h"

namespace sutor::cpu {

const QuantKernels kQuantAvx512 = quant_table();

}  // namespace sutor::cpu
