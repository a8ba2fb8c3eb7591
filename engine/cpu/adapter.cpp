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

}  // namespace sutor::cpu
