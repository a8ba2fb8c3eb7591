#pragma once
// A reference-grade forward (and backward) on given ids, everything named, for comparison with any
// other implementation.

#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/model.h"

namespace sutor {

struct TraceRequest {
  bool grads = false;
  int64_t greedy = 0;       // so many tokens after the first 8 ids of row 0
  bool aux = false;         // also the balance loss and the gradients of loss + balance loss
  std::string activations;  // glob over activation names; empty: none
};

// `in`: input_ids I64 [B,T], optional labels I64 [B,T] (-100 = not trained; shifted here), optional
// attention_mask I64 [B,T] (zeros only at a row's ends). Result: logits F32 [B,T,V], loss F32 [],
// grad.*, greedy I64 [1,8+N], aux_loss, loss_with_aux, grad_aux.*, act.*.
NamedTensors trace_model(Ctx& ctx, Model& model, const Checkpoint& in, const TraceRequest& request);

}  // namespace sutor
