#include "model/weights.h"

#include "model/expert_layout.h"
#include "model/fp8.h"
#include "model/gguf.h"
#include "model/nf4.h"

namespace sutor {

std::shared_ptr<const Weights> open_weights(const std::string& path, const std::string& model_type,
                                            Compute compute) {
  if (is_gguf(path)) return per_expert(open_gguf(path, compute), model_type);
  std::shared_ptr<const Weights> files = std::make_shared<Checkpoint>(Checkpoint::open(path));
  return per_expert(nf4_weights(unpacked_fp8(std::move(files))), model_type);
}

}  // namespace sutor
