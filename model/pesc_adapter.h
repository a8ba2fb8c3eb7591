#pragma once
// What PESC training leaves (arXiv 2401.02731): an adapter folder of
//   adapter_config.json, adapter_model.safetensors   LoRA of the seven projections, as PEFT has it
//   moe_model.safetensors                            routers and adapters, names as in the model
//   config.json                                      the model's: adapter_dim, moe_scaling, topk,
//   ...
// Read too: the authors' checkpoint-N of adapter_model/{adapter_config.json, adapter_model.bin} and
// moe_model.bin, whose names begin with "base_model.model.". Test: tests/pesc.cpp.

#include <string>
#include <vector>

#include "model/checkpoint.h"

namespace sutor {

// Globs of what a PESC run trains beside the LoRA, and the modules that carry one.
constexpr const char* kPescTrains = "*.mlp.moe_adapter.*";
std::vector<std::string> pesc_lora_targets();

bool is_pesc_adapter(const std::string& dir);
// Of such a folder: moe_model.* and the folder of the PEFT LoRA.
std::string moe_weights(const std::string& dir);
std::string pesc_lora(const std::string& dir);

// Throws one line when constants, names or shapes are not those of the model, or any are missing.
void load_pesc(Model& model, const std::string& dir, Replaced* replaced);

// What trains, into the existing folder.
void write_pesc(const std::string& dir, Model& model, const std::string& base,
                const LoraOptions& lora);

}  // namespace sutor
