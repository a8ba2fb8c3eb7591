#include "model/pesc_adapter.h"

#include <filesystem>
#include <set>

#include "io/file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/base_print.h"
#include "model/names.h"
#include "model/peft.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

// The constants with which the adapter was trained; with others it loads and computes nonsense.
void check_constants(Model& model, const std::string& dir) {
  const std::string file = dir + "/config.json";
  if (!fs::exists(file)) {  // the authors write none
    model.notices.push_back(
        fmt::format("adapter {}: has no config.json: that it was trained with top-k {}, "
                    "moe_scaling {} and this "
                    "RoPE cannot be checked",
                    dir, model.config.route.top_k, model.config.adapter_scaling));
    return;
  }
  const Config was = read_config(file), &now = model.config;
  auto same = [&](const char* key, auto a, auto b) {
    check(a == b, "adapter {}: was trained with {} {}, the model has {}: made for another one", dir,
          key, a, b);
  };
  same("model_type", was.model_type, now.model_type);
  same("hidden_size", was.hidden, now.hidden);
  same("num_hidden_layers", was.layers, now.layers);
  same("num_experts", was.experts, now.experts);
  same("topk", was.route.top_k, now.route.top_k);
  same("adapter_dim", was.adapter_dim, now.adapter_dim);
  same("moe_scaling", was.adapter_scaling, now.adapter_scaling);
  same("rope_theta", was.rope.theta, now.rope.theta);
}

}  // namespace

std::vector<std::string> pesc_lora_targets() {
  return {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
}

std::string moe_weights(const std::string& dir) {
  const std::string file = dir + "/moe_model.safetensors", bin = dir + "/moe_model.bin";
  return !fs::exists(file) && fs::exists(bin) ? bin : file;
}

bool is_pesc_adapter(const std::string& dir) { return fs::exists(moe_weights(dir)); }

std::string pesc_lora(const std::string& dir) {
  return fs::exists(dir + "/adapter_config.json") ? dir : dir + "/adapter_model";
}

void load_pesc(Model& model, const std::string& dir, Replaced* replaced) {
  const Config& c = model.config;
  check(c.adapter_dim > 0,
        "adapter {}: is of PESC, and this {} model has no adapters behind its MLPs (sutor craft "
        "makes them)",
        dir, c.model_type);
  const std::string file = moe_weights(dir), lora = pesc_lora(dir);
  check(fs::exists(lora + "/adapter_config.json"),
        "adapter {}: has {} but no adapter_config.json, in it or in adapter_model/", dir,
        fs::path(file).filename().string());
  check_constants(model, dir);
  constexpr std::string_view kPeft = "base_model.model.";
  const Checkpoint files = Checkpoint::open(file);
  std::set<std::string> held;
  for (const std::string& key : files.names()) {
    const std::string name = key.starts_with(kPeft) ? key.substr(kPeft.size()) : key;
    check(role_of(name).adapter, "adapter {}: its tensor {} is no router or adapter", dir, key);
    const Tensor t = files.get(key);
    if (model.params.has(name) && name.find(".adapter_") != std::string::npos &&
        t.shape.size() == 2) {
      const int64_t dim = std::min(t.dim(0), t.dim(1));
      const Shape& want = model.params.at(name).value.shape;
      check(t.shape == want || dim == c.adapter_dim,
            "adapter {}: {} has adapter_dim {}, the model has {} (config.json)", dir, key, dim,
            c.adapter_dim);
    }
    replace_tensor(model, name, t, dir, key, replaced);
    held.insert(name);
  }
  for (const Param& p : model.params.all())
    check(!role_of(p.name).adapter || held.count(p.name) != 0,
          "adapter {}: {} holds no {}: made for another model?", dir,
          fs::path(file).filename().string(), p.name);
  check_base(model, files, dir, [&](const Param& p) { return held.count(p.name) != 0; });
  load_peft(model, lora, replaced);
}

void write_pesc(const std::string& dir, Model& model, const std::string& base,
                const LoraOptions& lora) {
  write_peft(dir, model, base, lora);
  NamedTensors tensors;
  for (Param* p : model.params.trainable())
    if (role_of(p->name).adapter) tensors.emplace_back(p->name, p->value);
  save_safetensors(dir + "/moe_model.safetensors", tensors, base_metadata(model));
  write_file_atomic(dir + "/config.json", model.config.json.dump(2) + "\n");
}

}  // namespace sutor
