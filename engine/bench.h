#pragma once
// Times the matrix kernels on shapes of real layers, next to what the machine can do in the same
// minute (engine/cpu/peaks.h): the rows of `sutor bench kernels`.

#include <functional>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/cpu/peaks.h"

namespace sutor {

struct KernelTiming {
  std::string kernel, shape;
  int64_t tokens = 0;
  double seconds = 0;  // median
  double flop = 0;     // 2 per multiply-add
  double bytes = 0;    // of the weights that must be read once
};

// linear, moe_ffn and adapter, forward and forward + backward, bf16 weights, at 1, 16, 128 and 1024
// tokens. Layer: a DeepSeek-V2-Lite one (hidden 2048, width 1408, 64 experts, top-6; 1.1 GB) or,
// small, an eighth of its experts. `done` sees each row as it comes.
std::vector<KernelTiming> time_kernels(Ctx& ctx, bool small, int repeats,
                                       const std::function<void(const KernelTiming&)>& done);

}  // namespace sutor
