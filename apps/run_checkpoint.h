#pragma once
// checkpoint-N of a training run as MODEL: the run's own model (run.yaml beside it says which, with
// which adapters and method) with the weights trained so far.

#include <memory>
#include <string>

#include "model/model.h"

namespace sutor {

bool is_run_checkpoint(const std::string& folder);
// The folder with config.json and tokenizer: of a run's checkpoint the run's model, else `folder`.
std::string hub_folder(const std::string& folder);
std::unique_ptr<Model> load_run_checkpoint(const std::string& folder, Compute compute);

}  // namespace sutor
