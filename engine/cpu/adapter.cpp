#include "engine/backend.h"

namespace sutor::cpu {

void adapter_fwd(Ctx&, Tensor, Tensor, Tensor, Tensor, const MoeIndex&, const AdapterWeights&,
                 float, Dropout) {
  fail("adapter: not written yet");
}
void adapter_bwd(Ctx&, Tensor, Tensor, AdapterWeights*, Tensor, Tensor, Tensor, Tensor,
                 const MoeIndex&, const AdapterWeights&, float, Dropout) {
  fail("adapter: not written yet");
}
void dropout_fwd(Ctx&, Tensor, Tensor, Dropout) { fail("dropout: not written yet"); }
void dropout_bwd(Ctx&, Tensor, Tensor, Dropout) { fail("dropout: not written yet"); }
void adamw8bit_step(Ctx&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, AdamWStep) {
  fail("adamw8bit: not written yet");
}

}  // namespace sutor::cpu
