#pragma once
// Dry runs: while a DryRun lives, tensors made by its thread are address space and nothing else.
// zeros, casts and copies write nothing, memory_stats() counts as always. With kernels that do
// nothing (model/estimate.cpp) the real model and tape code then tells what a run would need.

namespace sutor {

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
