// Feature detection by CPUID bits (never by model: hypervisors mask it) and what the system saves
// on a context switch (XCR0). SUTOR_ISA=portable|avx2|avx512|avx512bf16|amx forces one down.

#include "engine/cpu/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

namespace sutor::cpu {
namespace {

constexpr std::string_view kNames[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};

uint64_t xcr0() {
  uint32_t a, d;
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (static_cast<uint64_t>(d) << 32) | a;
}

// Linux hands out AMX state per process on request; a refusal means "no AMX".
bool amx_permitted() {
  constexpr long kReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kReqXcompPerm, kTileData) == 0;
}

std::vector<Isa> detect() {
  std::vector<Isa> found{Isa::kPortable};
  uint32_t a, b, c, d, b7, d7, a71 = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return found;
  uint32_t c1 = c;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c, &d7)) return found;
  if (a >= 1) {
    uint32_t x, y, z;
    __get_cpuid_count(7, 1, &a71, &x, &y, &z);
  }
  uint64_t saved = xcr0();
  auto has = [](uint32_t word, uint32_t bits) { return (word & bits) == bits; };
  if ((saved & 0x6) != 0x6 || !has(c1, bit_AVX | bit_FMA | bit_F16C) || !has(b7, bit_AVX2))
    return found;
  found.push_back(Isa::kAvx2);
  if ((saved & 0xe6) != 0xe6 || !has(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ))
    return found;
  found.push_back(Isa::kAvx512);
  if (!has(a71, 1u << 5)) return found;
  found.push_back(Isa::kAvx512Bf16);
  if ((saved & 0x60000) == 0x60000 && has(d7, (1u << 22) | (1u << 24)) && amx_permitted())
    found.push_back(Isa::kAmx);
  return found;
}

const std::vector<Isa>& list() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> v = detect();
    const char* want = std::getenv("SUTOR_ISA");
    if (want == nullptr || *want == 0) return v;
    for (size_t i = 0; i < v.size(); ++i)
      if (name_of(v[i]) == want) return std::vector<Isa>(v.begin(), v.begin() + i + 1);
    std::vector<std::string_view> names;
    for (Isa i : v) names.push_back(name_of(i));
    fail("SUTOR_ISA={}: this machine has {}", want, fmt::join(names, ", "));
  }();
  return isas;
}

std::atomic<int> chosen{-1};

}  // namespace

std::string_view name_of(Isa isa) { return kNames[static_cast<int>(isa)]; }
std::vector<Isa> available_isas() { return list(); }

Isa current_isa() {
  int i = chosen.load(std::memory_order_relaxed);
  return i >= 0 ? static_cast<Isa>(i) : list().back();
}

void override_isa(Isa isa) {
  for (Isa i : list())
    if (i == isa) {
      chosen = static_cast<int>(isa);
      return;
    }
  fail("instruction set {} is not available", name_of(isa));
}

const MicroKernels& micro_kernels(Isa isa, Compute compute) {
  bool half = compute == Compute::kBF16;
  switch (isa) {
    case Isa::kPortable:
      return kPortableKernels[half];
    case Isa::kAvx2:
      return kAvx2Kernels[half];
    case Isa::kAvx512:
      return kAvx512Kernels[half];
    case Isa::kAvx512Bf16:
      return half ? kAvx512Bf16Kernels : kAvx512Kernels[0];
    default:
      return half ? kAmxKernels : kAvx512Kernels[0];
  }
}

}  // namespace sutor::cpu
