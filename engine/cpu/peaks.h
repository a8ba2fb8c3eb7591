#pragma once
// What this machine can do, measured in about a second: the yardsticks that the benchmark prints
// percentages of.

#include "engine/backend.h"

namespace sutor::cpu {

struct Peaks {
  double bf16_gflops, f32_gflops;  // micro-kernels on random data in L1, all threads (constant data
                                   // would clock higher)
  double read_gbps;                // reading memory far larger than the caches, all threads
};
Peaks measure_peaks();
double measure_gflops(Compute compute);  // one of the first two alone, in milliseconds

}  // namespace sutor::cpu
