#pragma once
// What the ops that drop a part of their input share (engine/ops/dropout.cpp).

#include "engine/ops.h"

namespace sutor {

// What LoRA's A sees of x: x itself without dropout; the same elements when asked again.
Tensor dropped(Ctx& ctx, const Tensor& x, const Dropout& drop);

}  // namespace sutor
