#pragma once
// What the benchmarks share: reproducible tensors, medians, an even routing.

#include <functional>
#include <vector>

#include "engine/backend.h"

namespace sutor::timing {

// Values in (-1, 1), of BF16 in (-0.05, 0.05), the same whatever the thread count.
Tensor made(Shape shape, DType dtype, uint64_t seed);

double median(std::vector<double> all);  // of an even number the upper one

// The median of `repeats` calls after a first one (pages, packing buffers, threads).
double median_seconds(int repeats, const std::function<void()>& fn);

// Medians of both, one call of each in turn: what the machine does to one it does to the other.
std::pair<double, double> median_seconds(int repeats, const std::function<void()>& a,
                                         const std::function<void()>& b);

// Token t's experts are t, t+7, t+14, ...: even load where there are tokens enough.
Tensor spread_experts(int64_t tokens, int64_t experts, int64_t top_k);

// Experts of a layer, BF16: gate and up [width,hidden], down [hidden,width].
ExpertWeights made_experts(int64_t experts, int64_t hidden, int64_t width);

}  // namespace sutor::timing
