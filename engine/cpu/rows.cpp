// The table of row kernels for the instruction set in use; bf16 and AMX units have nothing to offer
// here.

#include "engine/cpu/rows.h"

#include "engine/cpu/isa.h"

namespace sutor::cpu {

const RowKernels& row_kernels() {
  switch (current_isa()) {
    case Isa::kPortable:
      return kRowsPortable;
    case Isa::kAvx2:
      return kRowsAvx2;
    default:
      return kRowsAvx512;
  }
}

}  // namespace sutor::cpu
