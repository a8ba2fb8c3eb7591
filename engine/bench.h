#pragma once
// Times the kernels on shapes of real layers, next to what the machine can do in the same minute
// (engine/cpu/peaks.h): the rows of `sutor bench kernels`, `layer` and `fusion`.

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

// One MoE layer, top-6, forward alone, then forward and backward with dx, and dW of a share of its
// experts: by the multiply-adds, time follows (2 + share) / 3 of the whole.
struct LayerSizes {
  int64_t hidden = 2048, width = 1408, experts = 64;
  std::vector<int64_t> tokens = {128, 512, 2048};
  std::vector<double> shares = {0, 0.05, 0.125, 0.25, 0.5, 1};
};
struct LayerTiming {
  int64_t tokens = 0;
  bool backward = false;
  double share = 0;    // of the experts that train
  double flop = 0;     // useful: forward, dx, dW of the share
  double seconds = 0;  // median
  double line() const { return backward ? (2 + share) / 3 : 1.0 / 3; }
};
std::vector<LayerTiming> time_layer(Ctx& ctx, const LayerSizes& sizes, int repeats,
                                    const std::function<void(const LayerTiming&)>& done);

// What each fusion of the kernels is worth: the fused form against the same result by separate
// kernels, called in turn (engine/bench_fusion.cpp, where a variant is one entry of a table).
struct FusionTiming {
  std::string fusion, apart, shape;
  double fused_seconds = 0, apart_seconds = 0;  // medians
  double bytes = 0;       // that the separate form moves (or holds: the loss) in tensors of its own
  double difference = 0;  // of the results, the largest over the largest of the fused one
};
std::vector<FusionTiming> time_fusions(Ctx& ctx, bool small, int repeats,
                                       const std::function<void(const FusionTiming&)>& done);

}  // namespace sutor
