#include "model/pesc.h"

#include <cmath>

#include "engine/quant.h"
#include "engine/random.h"
#include "model/family.h"
#include "model/names.h"

namespace sutor {

CraftOptions reference_constants() {
  return {.experts = 8, .top_k = 2, .adapter_dim = 64, .scaling = 1, .balance = false};
}

void check_craftable(const Config& dense) {
  check(dense.adapter_dim == 0, "{}: a {} model has adapters already ({} experts, top-{})",
        dense.where, dense.model_type, dense.experts, dense.route.top_k);
  check(dense.moe_layers().empty(),
        "{}: a {} model is a MoE already ({} experts); PESC crafts dense ones", dense.where,
        dense.model_type, dense.experts);
  std::vector<std::string> allowed;
  for (const std::string& name : family_names())
    if (!crafted_family(name).empty()) allowed.push_back(name);
  check(!crafted_family(dense.model_type).empty(),
        "{}: there is no rule to craft model_type \"{}\" (allowed: {})", dense.where,
        dense.model_type, fmt::join(allowed, ", "));
}

namespace {

const char* torch_name(DType t) {
  return t == DType::BF16 ? "bfloat16" : t == DType::F16 ? "float16" : "float32";
}

// RoPE in transformers 4's keys: rope_theta, and rope_scaling of exactly "type" and a real "factor"
// where that says all.
void rope_in_old_keys(Json& j, const RopeConfig& rope) {
  const char* key = j.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";
  Json scaling = j.contains(key) ? j[key] : Json(nullptr);
  j.erase("rope_parameters");
  j["rope_theta"] = rope.theta;
  if (rope.type == RopeType::kDefault) {
    j["rope_scaling"] = nullptr;
  } else if (rope.type == RopeType::kLinear || rope.type == RopeType::kDynamic) {
    j["rope_scaling"] = {{"type", rope.type == RopeType::kLinear ? "linear" : "dynamic"},
                         {"factor", rope.factor}};
  } else {
    scaling.erase("rope_theta");
    j["rope_scaling"] = scaling;
  }
}

Config crafted_config(const Config& d, const CraftOptions& opt, DType weights,
                      const std::string& where) {
  const std::string type = crafted_family(d.model_type);
  const Family& to = family(type);
  Json j = d.json;
  for (const char* key : {"auto_map", "dtype", "quantization_config"}) j.erase(key);
  j.update({{"model_type", type},
            {"architectures", Json::array({to.model_class})},
            {"torch_dtype", torch_name(weights)},
            {"moe_dtype", torch_name(weights)},
            {"max_position_embeddings", d.max_positions},
            {"rms_norm_eps", d.norm_eps},
            {"num_experts", opt.experts},
            {"topk", opt.top_k},
            {"adapter_dim", opt.adapter_dim},
            {"moe_scaling", opt.scaling},
            {"adapter_dropout", opt.dropout},
            {"output_router_logits", opt.balance},
            {"router_aux_loss_coef", 0.01}});
  if (to.config_class != nullptr)
    j["auto_map"] = {{"AutoConfig", to.config_class}, {"AutoModelForCausalLM", to.model_class}};
  if (j.contains("pretraining_tp")) j["pretraining_tp"] = 1;
  rope_in_old_keys(j, d.rope);
  Config c;
  c.json = j;
  c.where = where;
  c.model_type = type;
  to.read({c.json, c.where}, c);
  c.eos = d.eos;
  return c;
}

}  // namespace

std::vector<std::string> beyond_authors(const Config& c) {
  std::vector<std::string> out;
  if (family(c.model_type).config_class == nullptr) return out;  // there is no such code
  Reader r{c.json, c.where};
  auto say = [&](const std::string& what) {
    out.push_back(
        fmt::format("{}: {}, which the authors' code does not have: it cannot run this "
                    "model",
                    c.where, what));
  };
  if (c.rope.theta != 10000 && c.model_type == "camelidae")
    out.push_back(
        fmt::format("{}: rope_theta is {}; the authors' code rotates with 10000 whatever it says",
                    c.where, c.rope.theta));
  bool simple = c.rope.type == RopeType::kLinear || c.rope.type == RopeType::kDynamic;
  if (c.rope.type != RopeType::kDefault && !(simple && c.model_type == "camelidae"))
    say("rope_scaling is " + c.json.at("rope_scaling").dump());
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (r.value(key, false)) say(fmt::format("{} is true", key));
  if (int64_t D = r.value<int64_t>("head_dim", 0); D > 0 && D * c.heads != c.hidden)
    say(fmt::format("head_dim is {}", D));
  return out;
}

std::unique_ptr<Model> craft(Model& dense, const CraftOptions& opt, const std::string& where) {
  check_craftable(dense.config);
  for (const Param& p : dense.params.all())
    check(!p.lora && dense.folded.empty(), "{}: carries a LoRA; merge it first", p.name);
  const DType type = float_type(dense.head().value);
  auto source = [&](const std::string& name, const Shape& shape) {
    if (dense.params.has(name)) return dense.params.at(name).value;
    check(role_of(name).adapter, "{}: the dense model has no tensor {}", dense.config.where, name);
    if (name.ends_with(".adapter_up.weight")) return zeros(shape, type);
    Tensor t = empty(shape);
    uint64_t state = seed_of(opt.seed, name);
    const double bound = 1 / std::sqrt(static_cast<double>(shape[1]));
    for (int64_t i = 0; i < t.numel(); ++i)
      t.f32()[i] =
          static_cast<float>(bound * (static_cast<double>(next_random(state) >> 11) * 0x1p-52 - 1));
    return type == DType::F32 ? t : cast(t, type);
  };
  auto model = make_model(crafted_config(dense.config, opt, type, where), source);
  for (std::string& s : beyond_authors(model->config)) model->notices.push_back(std::move(s));
  return model;
}

}  // namespace sutor
