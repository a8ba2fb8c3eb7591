#pragma once
// adapter_config.json of a PEFT LoRA: which modules carry factors, their rank and scale. Every key
// is honoured, has no effect on the weights, or is an error. Source: huggingface/peft 0.21,
// tuners/lora/config.py, tuners_utils.py (check_target_module_exists).

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/json.h"
#include "io/regex.h"

namespace sutor {

class PeftConfig {
 public:
  static PeftConfig read(const std::string& file);

  std::string file;
  bool dora = false, ensure_tying = false;
  bool all_linear = false;                     // target_modules "all-linear"
  bool any_target = false;                     // no target_modules: what the file holds
  std::string bias;                            // none, all, lora_only
  std::vector<std::string> target_parameters;  // "mlp.experts.gate_up_proj"
  std::vector<std::string> modules_to_save;
  std::string version;  // of the peft that wrote it; empty: not said

  // Whether target_modules (with exclude_modules, layers_to_transform) names the module of that
  // path. `linear`: it is a linear other than the head, for "all-linear".
  bool targets(const std::string& module, bool linear) const;
  // target_modules one by one; the regular expression or "all-linear" is one. is_target: whether
  // that one fits the module.
  std::vector<std::string> target_modules() const;
  bool is_target(const std::string& target, const std::string& module) const;
  bool targets_parameter(const std::string& name) const;
  // Whether that name in modules_to_save stands for the module or one that it lies in: peft takes
  // each whose path ends in these letters ("norm": every input_layernorm; utils/other.py,
  // _set_trainable).
  static bool is_saved_by(const std::string& name, const std::string& module);
  int64_t rank(const std::string& module) const;
  float scale(const std::string& module) const;  // alpha / r, or alpha / sqrt r

 private:
  using Patterns = std::vector<std::pair<Regex, double>>;
  Patterns patterns(const Json& j, const char* key, bool integers);
  // What peft never targets: modules_to_save, there matched by whole names.
  bool is_no_target(const std::string& module) const;
  int64_t r_ = 0;
  double alpha_ = 0;
  bool rslora_ = false;
  Patterns ranks_, alphas_;
  std::vector<std::string> targets_, excludes_;
  std::string target_text_;  // where it is one text: a regular expression or "all-linear"
  std::optional<Regex> target_regex_, exclude_regex_;
  std::vector<int64_t> layers_;
  std::vector<Regex> layer_patterns_;  // group 1: the layer
};

}  // namespace sutor
