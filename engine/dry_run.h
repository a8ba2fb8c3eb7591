#pragma once
// Dry runs: while a DryRun lives, tensors made by its thread are address space and nothing else.
// zeros, casts and copies write nothing, memory_stats() counts as always. With kernels that do
// nothing (model/estimate.cpp) the real model and tape code then tells what a run would need.

#include <cstdint>

namespace sutor {

// What freed tensors may leave with the allocator (engine/tensor.cpp), beyond memory_stats().
constexpr int64_t kKeptBlocks = 128 << 20;

class DryRun {
 public:
  DryRun();
  ~DryRun();
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

 private:
  bool before_;
};
bool dry_run();

}  // namespace sutor
