#include "engine/backend.h"

namespace sutor::cpu {

void adamw8bit_step(Ctx&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, AdamWStep) {
  fail("adamw8bit: not written yet");
}

}  // namespace sutor::cpu
