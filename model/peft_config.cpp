#include "model/peft_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace sutor {
namespace {

constexpr int64_t kMaxRank = INT32_MAX;  // times a number of experts it fits 64 bits

bool off(const Json& v) {
  return v.is_null() || v == false || ((v.is_object() || v.is_array()) && v.empty());
}

// Say nothing about the weights, or only how they were trained; but a value of another type than
// peft's shows that the file is not what it seems.
enum class Kind { kText, kSwitch, kNumber, kObject };
struct NoEffect {
  const char* key;
  Kind kind;
};
constexpr NoEffect kNoEffect[] = {{"peft_type", Kind::kText},
                                  {"task_type", Kind::kText},
                                  {"base_model_name_or_path", Kind::kText},
                                  {"revision", Kind::kText},
                                  {"inference_mode", Kind::kSwitch},
                                  {"auto_mapping", Kind::kObject},
                                  {"lora_dropout", Kind::kNumber},
                                  {"megatron_core", Kind::kText},
                                  {"runtime_config", Kind::kObject},
                                  {"peft_version", Kind::kText},
                                  {"qalora_group_size", Kind::kNumber},
                                  {"loftq_config", Kind::kObject},
                                  {"eva_config", Kind::kObject},
                                  {"corda_config", Kind::kObject},
                                  {"lora_ga_config", Kind::kObject}};
constexpr const char* kHonoured[] = {"r",
                                     "lora_alpha",
                                     "use_rslora",
                                     "use_dora",
                                     "bias",
                                     "rank_pattern",
                                     "alpha_pattern",
                                     "target_modules",
                                     "target_parameters",
                                     "exclude_modules",
                                     "modules_to_save",
                                     "layers_to_transform",
                                     "layers_pattern",
                                     "init_lora_weights",
                                     "ensure_weight_tying"};

bool among(const auto& list, const std::string& key) {
  return std::find(std::begin(list), std::end(list), key) != std::end(list);
}

// Whether `key` is one of kNoEffect; its value is of peft's type or null, else an error.
bool has_no_effect(const std::string& key, const Json& v, const std::string& file) {
  for (const auto& [name, kind] : kNoEffect) {
    if (key != name) continue;
    const bool fits = kind == Kind::kText     ? v.is_string()
                      : kind == Kind::kSwitch ? v.is_boolean()
                      : kind == Kind::kNumber ? v.is_number()
                                              : v.is_object();
    check(fits || v.is_null(), "{}: {} is {}, must be {} or null", file, key,
          v.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60),
          kind == Kind::kText     ? "a text"
          : kind == Kind::kSwitch ? "true or false"
          : kind == Kind::kNumber ? "a number"
                                  : "an object");
    return true;
  }
  return false;
}

std::vector<std::string> strings(const Json& j, const char* key, const std::string& file) {
  std::vector<std::string> out;
  if (!j.contains(key) || j[key].is_null()) return out;
  if (j[key].is_string()) return {j[key].get<std::string>()};
  check(j[key].is_array(), "{}: {} is {}, must be a list of names", file, key, j[key].dump());
  for (const Json& v : j[key]) {
    check(v.is_string() && !v.get<std::string>().empty(), "{}: {} holds {}, must hold names", file,
          key, v.dump());
    out.push_back(v.get<std::string>());
  }
  return out;
}

// The module itself, or the end of its path.
bool names(const std::vector<std::string>& list, const std::string& module) {
  return std::any_of(list.begin(), list.end(), [&](const std::string& s) {
    return module == s || module.ends_with("." + s);
  });
}

// These start from a changed base model, which the factors alone do not tell.
void check_init(const Json& j, const std::string& file) {
  if (!j.contains("init_lora_weights")) return;
  const Json& v = j["init_lora_weights"];
  static const std::vector<std::string> allowed{"gaussian", "eva", "orthogonal"};
  check(v.is_null() || v.is_boolean() || (v.is_string() && among(allowed, v.get<std::string>())),
        "{}: init_lora_weights is {}, allowed: true, false, {} (the others train beside a changed "
        "base model: convert the adapter to plain LoRA with peft first)",
        file, v.dump(), fmt::join(allowed, ", "));
}

}  // namespace

PeftConfig::Patterns PeftConfig::patterns(const Json& j, const char* key, bool integers) {
  Patterns out;
  if (!j.contains(key) || off(j[key])) return out;
  check(j[key].is_object(), "{}: {} is {}, must map names to numbers", file, key, j[key].dump());
  for (const auto& [pattern, v] : j[key].items()) {
    check(v.is_number() && v.get<double>() > 0, "{}: {}: {} is {}, must be a number > 0", file, key,
          pattern, v.dump());
    if (integers)
      check(v.is_number_integer() && v.get<double>() <= kMaxRank,
            "{}: {}: {} is {}, must be an integer in 1..{}", file, key, pattern, v.dump(),
            kMaxRank);
    out.emplace_back(Regex("(?:.*\\.)?(?:" + pattern + ")", file + ": " + key), v.get<double>());
  }
  return out;
}

PeftConfig PeftConfig::read(const std::string& file) {
  Json j = read_json_file(file);
  PeftConfig c;
  c.file = file;
  std::string type = get<std::string>(j, "peft_type", file);
  check(type == "LORA", "{}: peft_type is \"{}\", known: LORA", file, type);
  for (const auto& [key, v] : j.items())
    check(has_no_effect(key, v, file) || among(kHonoured, key) || off(v),
          "{}: {} is {}, which is not implemented (allowed: null or false)", file, key,
          v.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
  c.r_ = get<int64_t>(j, "r", file);
  c.alpha_ = get<double>(j, "lora_alpha", file);
  check(c.r_ >= 1 && c.r_ <= kMaxRank, "{}: r is {}, must be in 1..{}", file, c.r_, kMaxRank);
  c.rslora_ = get_or(j, "use_rslora", false, file);
  c.dora = get_or(j, "use_dora", false, file);
  c.ensure_tying = get_or(j, "ensure_weight_tying", false, file);
  c.bias = get_or<std::string>(j, "bias", "none", file);
  check(c.bias == "none" || c.bias == "all" || c.bias == "lora_only",
        "{}: bias is \"{}\", allowed: none, all, lora_only", file, c.bias);
  c.version = get_or<std::string>(j, "peft_version", "", file);
  c.ranks_ = c.patterns(j, "rank_pattern", true);
  c.alphas_ = c.patterns(j, "alpha_pattern", false);
  c.target_parameters = strings(j, "target_parameters", file);
  c.modules_to_save = strings(j, "modules_to_save", file);
  check_init(j, file);

  bool none = !j.contains("target_modules") || j["target_modules"].is_null();
  c.any_target = none && c.target_parameters.empty();
  if (!none && j["target_modules"].is_string()) {
    std::string s = j["target_modules"].get<std::string>(), lower = s;
    std::transform(s.begin(), s.end(), lower.begin(), [](unsigned char x) { return tolower(x); });
    c.all_linear = lower == "all-linear";
    c.target_text_ = s;
    if (!c.all_linear) c.target_regex_.emplace(s, file + ": target_modules");
  } else {
    c.targets_ = strings(j, "target_modules", file);
  }
  if (j.contains("exclude_modules") && j["exclude_modules"].is_string())
    c.exclude_regex_.emplace(j["exclude_modules"].get<std::string>(), file + ": exclude_modules");
  else
    c.excludes_ = strings(j, "exclude_modules", file);
  if (j.contains("layers_to_transform") && !off(j["layers_to_transform"])) {
    const Json& l = j["layers_to_transform"];
    for (const Json& v : l.is_array() ? l : Json::array({l})) {
      check(v.is_number_unsigned(), "{}: layers_to_transform holds {}, must hold layer numbers",
            file, v.dump());
      c.layers_.push_back(v.get<int64_t>());
    }
    // Without a pattern the first numbered part of the path is the layer.
    for (const std::string& p : strings(j, "layers_pattern", file))
      c.layer_patterns_.emplace_back("(?:.*?\\.)?(?:" + p + ")\\.(\\d+)\\..*", file);
    if (c.layer_patterns_.empty())
      c.layer_patterns_.emplace_back(".*?\\.[^.]*\\.(\\d+)\\..*", file);
  }
  return c;
}

bool PeftConfig::targets(const std::string& module, bool linear) const {
  if (exclude_regex_ ? exclude_regex_->full_match(module) : names(excludes_, module)) return false;
  if (is_no_target(module)) return false;
  if (any_target) return true;
  if (all_linear) return linear;
  if (target_regex_) return target_regex_->full_match(module);
  // A full path is taken as it is; layers choose among names.
  if (std::find(targets_.begin(), targets_.end(), module) != targets_.end()) return true;
  if (!names(targets_, module)) return false;
  if (layers_.empty()) return true;
  for (const Regex& p : layer_patterns_) {
    std::string layer = p.group(module, 1);
    if (layer.empty()) continue;
    int64_t n = -1;
    std::from_chars(layer.data(), layer.data() + layer.size(), n);
    return std::find(layers_.begin(), layers_.end(), n) != layers_.end();
  }
  return false;
}

std::vector<std::string> PeftConfig::target_modules() const {
  return target_text_.empty() ? targets_ : std::vector<std::string>{target_text_};
}

bool PeftConfig::is_target(const std::string& target, const std::string& module) const {
  return target_text_.empty() ? names({target}, module) : targets(module, true);
}

bool PeftConfig::targets_parameter(const std::string& name) const {
  return names(target_parameters, name);
}

bool PeftConfig::is_no_target(const std::string& module) const {
  return std::any_of(modules_to_save.begin(), modules_to_save.end(), [&](const std::string& s) {
    return module == s || module.ends_with("." + s) ||
           module.find("." + s + ".") != std::string::npos || module.starts_with(s + ".");
  });
}

bool PeftConfig::is_saved_by(const std::string& name, const std::string& module) {
  for (size_t end = module.find('.');; end = module.find('.', end + 1)) {
    if (std::string_view(module).substr(0, end).ends_with(name)) return true;
    if (end == module.npos) return false;
  }
}

int64_t PeftConfig::rank(const std::string& module) const {
  for (const auto& [pattern, v] : ranks_)
    if (pattern.full_match(module)) return static_cast<int64_t>(v);
  return r_;
}

float PeftConfig::scale(const std::string& module) const {
  double alpha = alpha_, r = static_cast<double>(rank(module));
  for (const auto& [pattern, v] : alphas_)
    if (pattern.full_match(module)) {
      alpha = v;
      break;
    }
  return static_cast<float>(rslora_ ? alpha / std::sqrt(r) : alpha / r);
}

}  // namespace sutor
