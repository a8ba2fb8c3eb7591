#pragma once
// What a training run will need before anything runs: the model's own forward and backward over
// tensors without pages (engine/dry_run.h) and kernels that do nothing but allocate what the CPU
// kernels allocate, count floating-point operations and route tokens evenly. So the tape, the
// family and recomputation are the real ones, and a new family needs nothing here.
// Test: tests/estimate.cpp; against measured peaks: tests/estimate_check.sh.

#include <string>
#include <vector>

#include "model/lora.h"
#include "model/model.h"

namespace sutor {

// A model to estimate with: of a folder with weights as load_model() would give it (mapped; what
// would be unpacked or turned is address space only), else from config.json with tensors of type
// `fallback` that are address space only.
bool has_weights(const std::string& folder_or_config);
std::unique_ptr<Model> dry_model(const std::string& folder_or_config, DType fallback,
                                 Compute compute = Compute::kBF16);

struct EstimateOptions {
  Compute compute = Compute::kBF16;
  bool recompute = false, balance_loss = false;
  std::vector<int32_t> ids;  // of all data: which rows of the embedding the run reads; empty: those
                             // of the micro-batches
  bool moments_8bit = false;
  int64_t micro_batches = 1;  // of a step
};

struct Estimate {
  // Bytes; together peak().
  int64_t process = 0;  // binary, libraries, tokenizer, data: set by the caller
  int64_t mapped = 0;   // pages of the weight files that the run reads; weights unpacked at load
  int64_t values = 0;   // heap copies of what trains (and tensors that are in no file: LoRA)
  int64_t grads = 0, masters = 0, moments = 0;
  int64_t activations = 0;  // kept for backward when the forward pass ends
  int64_t step = 0;     // the rest at the peak: logits chunk, gradients of activations, operands
  int64_t freed = 0;    // blocks of freed tensors kept for the next ones, up to their limit
  int64_t threads = 0;  // scratch of the kernels' threads
  std::vector<int64_t> kept_by_layer;  // sums to `activations` but for the embedding and the norm
  int64_t logits_chunk = 0;            // part of `step` while the loss is computed

  int64_t trainable_parameters = 0, tokens = 0, trained_tokens = 0;  // tokens: of a whole step
  double product_flops = 0;     // of a step: matrix products in `compute`
  double attention_flops = 0;   // in f32
  int64_t optimizer_bytes = 0;  // read and written by AdamW
  int64_t peak() const {
    return process + mapped + values + grads + masters + moments + activations + step + freed +
           threads;
  }
};

// What trains must be marked, nothing prepared. `micro` are the micro-batches of one step.
Estimate estimate_training(Model& model, const std::vector<Batch>& micro,
                           const EstimateOptions& opt);

}  // namespace sutor
