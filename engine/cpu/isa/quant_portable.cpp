// The unpacking of blocks compiled with the flags of every other file.
#include "engine/cpu/isa/quant.h"

namespace sutor::cpu {

const QuantKernels kQuantPortable = quant_table();

}  // namespace sutor::cpu
