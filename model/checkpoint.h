#pragma once
// What a run leaves behind: adapters and whole models (resumable state: model/run_state.h). Every
// folder is written aside and renamed.

#include <map>
#include <string>

#include "model/lora.h"
#include "model/model.h"

namespace sutor {

// Trained tensors only. ESFT: model.safetensors with keys as in the base, plus expert_cfg (the text
// of expert_cfg.json) when given. LoRA: PEFT's adapter_config.json and adapter_model.safetensors;
// where routers and adapters trained too, PESC's folder (model/pesc_adapter.h).
void write_adapter(const std::string& dir, Model& model, const std::string& base,
                   const std::string& expert_cfg, const LoraOptions* lora);

// A whole hub folder: every tensor under its name, the model's config.json, and the tokenizer's
// files from `base`. `verify` sees the finished folder before it gets its name; when it throws,
// nothing remains.
void write_model(const std::string& dir, Model& model, const std::string& base,
                 const std::function<void(const std::string& dir)>& verify = {});

// Copies config.json, generation_config.json, tokenizer files, templates and, where a config asks
// for it (auto_map), the model's Python files, of those that `from` has.
void copy_side_files(const std::string& from, const std::string& dir);

// Puts an adapter folder into the model: an ESFT partial checkpoint (keys with or without the
// leading "model."; what expert_cfg.json names, if there), a PEFT LoRA or a PESC adapter. Throws
// when a key, shape, type or expert does not belong to this model. `replaced` is handed on from
// adapter to adapter: two for the same tensor are an error.
using Replaced = std::map<std::string, std::string>;  // tensor -> folder of the adapter
void load_adapter(Model& model, const std::string& dir, Replaced* replaced = nullptr);
// Puts tensor `key` of the adapter `dir` in place of the parameter `name`.
void replace_tensor(Model& model, const std::string& name, const Tensor& t, const std::string& dir,
                    const std::string& key, Replaced* replaced);
bool is_folded(const Model& model, const Param& p);

}  // namespace sutor
