#pragma once
// Which instructions this machine has, and the table of micro-kernels written for each set.
//
// The table is engine/cpu/micro_table.h; users: engine/cpu/gemm.h.

#include <string_view>
#include <vector>

#include "engine/backend.h"
#include "engine/cpu/micro_table.h"

namespace sutor::cpu {

enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };

std::string_view name_of(Isa isa);
std::vector<Isa> available_isas();  // in ascending order; honours SUTOR_ISA as the upper end
Isa current_isa();
void override_isa(Isa isa);  // tests: must be one of available_isas()
const MicroKernels& micro_kernels(Isa isa, Compute compute);
inline const MicroKernels& micro_kernels(Compute compute) {
  return micro_kernels(current_isa(), compute);
}

}  // namespace sutor::cpu
