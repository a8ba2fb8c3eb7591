#include "model/peft_complete.h"

#include <algorithm>

#include "model/names.h"

namespace sutor {
namespace {

// "model.layers.3.self_attn.q_proj" -> "model.layers.*.self_attn.q_proj"
std::string kind_of(const std::string& module) {
  std::string out;
  for (size_t i = 0; i < module.size(); ++i) {
    bool digit = module[i] >= '0' && module[i] <= '9';
    bool starts = i > 0 && module[i - 1] == '.';
    if (digit && (starts || out.back() == '*')) {
      if (out.back() != '*') out += '*';
    } else {
      out += module[i];
    }
  }
  return out;
}

// The fused parameters of all MoE layers as PEFT names them.
std::vector<std::string> stacks(const Config& c) {
  std::vector<std::string> out;
  for (int layer : c.moe_layers())
    for (const char* part : {"gate_up_proj", "down_proj"})
      out.push_back(fmt::format("model.layers.{}.mlp.experts.{}", layer, part));
  return out;
}

}  // namespace

bool is_matrix(const Param& p) {
  return p.value.shape.size() == 2 && p.name.ends_with(".weight") &&
         p.name.find(".lora_") == std::string::npos;
}

std::string module_of(const Param& p) { return p.name.substr(0, p.name.size() - 7); }

void check_peft_complete(const PeftConfig& config, Model& model, const std::string& dir,
                         const std::set<std::string>& done) {
  if (config.any_target) return;
  auto check_holds = [&](bool holds, const char* key, const std::string& name) {
    check(holds, "{}: {} names {}, of which {} holds no factors", config.file, key, name, dir);
  };
  std::set<std::string> kinds;
  for (const std::string& d : done) kinds.insert(kind_of(d));
  auto missing = [&](const std::string& name) {
    return kinds.count(kind_of(name)) != 0 && done.count(name) == 0;
  };
  std::vector<std::string> modules, parameters;  // that could carry factors
  for (const Param& p : model.params.all()) {
    if (!is_matrix(p)) continue;
    std::string module = module_of(p);
    parameters.push_back(p.name);
    if (!config.targets(module, true)) continue;
    // Routed experts are modules for some versions of transformers and fused parameters for others:
    // a list of names for all kinds of models may mean no expert, if it met something else.
    if (done.empty() || role_of(p.name).part != Part::kExpert) modules.push_back(module);
    check_holds(!missing(module), "target_modules", module);
  }
  for (const std::string& stack : stacks(model.config)) {
    parameters.push_back(stack);
    check_holds(!missing(stack) || !config.targets_parameter(stack), "target_parameters", stack);
  }
  auto check_met = [&](const char* key, const std::string& target,
                       const std::vector<std::string>& there, const auto& fits) {
    bool could = std::any_of(there.begin(), there.end(), fits);
    check_holds(!could || std::any_of(done.begin(), done.end(), fits), key, target);
  };
  for (const std::string& target : config.target_modules())
    check_met("target_modules", target, modules,
              [&](const std::string& m) { return config.is_target(target, m); });
  for (const std::string& target : config.target_parameters)
    check_met("target_parameters", target, parameters,
              [&](const std::string& p) { return p == target || p.ends_with("." + target); });
}

}  // namespace sutor
