#include "engine/ops.h"

namespace sutor {

AdapterWeights AdapterBank::values() const { return {}; }
AdapterWeights AdapterBank::grads() const { return {}; }
bool AdapterBank::any_trainable() const { return false; }

Var adapter_moe(const Var&, const Routing&, const AdapterBank&, float, float) {
  fail("adapter: not written yet");
}

}  // namespace sutor
