// The row kernels compiled with the flags of every other file.
#include "engine/cpu/isa/rows.h"

namespace sutor::cpu {

const RowKernels kRowsPortable = table("portable");

}  // namespace sutor::cpu
