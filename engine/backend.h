#pragma once
// A device's table of kernels, generated from kernels.def. A kernel that a device lacks is a link
// error.

#include "engine/moe.h"
#include "engine/tensor.h"

namespace sutor {

enum class Compute { kF32, kBF16 };

// What a layer's pre-activations are kept in for backward: where products round their operands to
// bf16, the kept ones are rounded too.
inline DType kept_type(Compute compute) {
  return compute == Compute::kBF16 ? DType::BF16 : DType::F32;
}

struct AdamWStep {  // double until the constants of the element loop are rounded, once
  double lr, beta1, beta2, eps, weight_decay;
  double grad_scale;    // the gradient is multiplied by this first (clipping)
  double bias1, bias2;  // 1 - beta^t
};

struct Backend;
struct Ctx {
  const Backend* k;  // kernels of this context's device
  Compute compute = Compute::kF32;
  uint64_t dropout = 0;  // what a training step's dropout masks are drawn from; 0: none is applied
};

struct Backend {
  const char* name;
#define KERNEL(fn, sig) void(*fn) sig;
#include "engine/kernels.def"
#undef KERNEL
};

namespace cpu {
#define KERNEL(fn, sig) void fn sig;
#include "engine/kernels.def"
#undef KERNEL
}  // namespace cpu

const Backend& cpu_backend();
Ctx cpu_context(Compute compute);

// Why CUDA can't be used, in one sentence; empty when it can. (cuda/no_cuda.cpp when built without
// it.)
std::string cuda_unusable_because();

}  // namespace sutor
