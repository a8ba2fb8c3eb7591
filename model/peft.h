#pragma once
// PEFT adapter folders: adapter_config.json and adapter_model.safetensors. Read: plain LoRA per
// expert, PEFT's fused target_parameters form, rank and alpha patterns, rsLoRA, DoRA, saved modules
// and biases. Written: plain LoRA per expert. Tests: tests/peft.cpp, goldens from the peft library.

#include <string>

#include "io/safetensors_writer.h"
#include "model/checkpoint.h"

namespace sutor {

// Factors of linears stay apart from the weights (Param::lora); DoRA and LoRA on the head or a
// router are folded in (Model::folded). Whatever is not honoured throws.
void load_peft(Model& model, const std::string& dir, Replaced* replaced);

// adapter_model.safetensors of an adapter folder, or its .bin.
std::string peft_weights(const std::string& dir);

// The trainable LoRA factors into the existing folder.
void write_peft(const std::string& dir, Model& model, const std::string& base,
                const LoraOptions& lora, const Metadata& metadata = {});

}  // namespace sutor
