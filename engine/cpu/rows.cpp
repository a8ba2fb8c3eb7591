// Which of the row kernels runs: the widest set this machine has, or SUTOR_ISA.

#include "engine/cpu/rows.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "engine/error.h"

namespace sutor::cpu {
namespace {

std::vector<const RowKernels*> detect() {
  std::vector<const RowKernels*> found{&kRowsPortable};
  const char* wanted = std::getenv("SUTOR_ISA");
  std::string_view top = wanted ? wanted : "";
  if (top == "portable") return found;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kRowsAvx2);
  if (top == "avx2") return found;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    found.push_back(&kRowsAvx512);
  return found;
}

const std::vector<const RowKernels*>& list() {
  static const std::vector<const RowKernels*> found = detect();
  return found;
}

std::atomic<const RowKernels*> chosen{nullptr};

}  // namespace

std::vector<const RowKernels*> available_row_kernels() { return list(); }

const RowKernels& row_kernels() {
  const RowKernels* k = chosen.load(std::memory_order_relaxed);
  return k ? *k : *list().back();
}

void override_row_kernels(const RowKernels* k) { chosen = k; }

}  // namespace sutor::cpu
