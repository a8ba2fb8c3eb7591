// The unpacking of blocks compiled with AVX2.
#include "engine/cpu/isa/quant.h"

namespace sutor::cpu {

const QuantKernels kQuantAvx2 = quant_table();

}  // namespace sutor::cpu
