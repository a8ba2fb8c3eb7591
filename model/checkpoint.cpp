#include "model/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "io/file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kShardBytes = int64_t{5} << 30;
const std::string kPeft = "base_model.model.";

void write_text(const std::string& path, const std::string& text) { write_file_atomic(path, text); }

std::string module_of(const std::string& name) { return name.substr(0, name.find_last_of('.')); }

void load_lora(Model& model, const std::string& dir) {
  std::string file = dir + "/adapter_config.json";
  Json j = read_json_file(file);
  std::string type = get<std::string>(j, "peft_type", file);
  check(type == "LORA", "{}: peft_type is \"{}\", known: LORA", file, type);
  for (const char* key : {"use_dora", "fan_in_fan_out"})
    check(!j.contains(key) || j[key].is_null() || j[key] == false,
          "{}: {} is set, which is not implemented", file, key);
  for (const char* key : {"rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters"})
    check(!j.contains(key) || j[key].is_null() || j[key].empty(),
          "{}: {} is set, which is not implemented", file, key);
  std::string bias = get_or<std::string>(j, "bias", "none", file);
  check(bias == "none", "{}: bias is \"{}\", allowed: none", file, bias);
  double r = get<double>(j, "r", file), alpha = get<double>(j, "lora_alpha", file);
  check(r >= 1, "{}: r is {}, must be 1 or more", file, r);
  float scale =
      static_cast<float>(get_or(j, "use_rslora", false, file) ? alpha / std::sqrt(r) : alpha / r);
  Checkpoint files = Checkpoint::open(dir + "/adapter_model.safetensors");
  for (const std::string& key : files.names()) {
    check(key.starts_with(kPeft) &&
              (key.ends_with(".lora_A.weight") || key.ends_with(".lora_B.weight")),
          "{}: tensor {} is no LoRA factor of a linear", dir, key);
    if (!key.ends_with(".lora_A.weight")) continue;
    std::string module =
        key.substr(kPeft.size(), key.size() - kPeft.size() - std::strlen(".lora_A.weight"));
    check(
        model.params.has(module + ".weight"),
        "adapter {}: its tensor {} is for {}, which does not exist in the model: made for another "
        "one?",
        dir, key, module);
    Param& w = model.params.at(module + ".weight");
    check(files.has(kPeft + module + ".lora_B.weight"), "{}: {} has lora_A but no lora_B", dir,
          module);
    Tensor a = files.get(key), b = files.get(kPeft + module + ".lora_B.weight");
    check(a.shape.size() == 2 && b.shape.size() == 2 && a.dim(1) == w.value.dim(1) &&
              b.dim(0) == w.value.dim(0) && a.dim(0) == b.dim(1),
          "{}: LoRA factors {} and {} do not fit {} {}", dir, to_string(a.shape),
          to_string(b.shape), w.name, to_string(w.value.shape));
    check(!w.lora, "{}: {} already carries a LoRA", dir, module);
    Param& pa = model.params.add(module + ".lora_A.weight", a);
    Param& pb = model.params.add(module + ".lora_B.weight", b);
    w.lora = Lora{&pa, &pb, scale};
  }
}

}  // namespace

void copy_side_files(const std::string& from, const std::string& dir) {
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json",
                           "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "chat_template.jinja"})
    if (fs::exists(from + "/" + name)) write_text(dir + "/" + name, read_file(from + "/" + name));
}

void write_adapter(const std::string& dir, Model& model, const std::string& base,
                   const std::string& expert_cfg, const LoraOptions* lora) {
  AtomicFolder folder(dir);
  NamedTensors tensors;
  for (Param* p : model.params.trainable())
    tensors.emplace_back(lora ? kPeft + p->name : p->name, p->value);
  check(!tensors.empty(), "{}: nothing was trained", dir);
  if (lora) {
    std::vector<std::string> targets;
    for (Param* p : model.params.trainable()) {
      std::string module = module_of(module_of(p->name));
      std::string last = module.substr(module.find_last_of('.') + 1);
      if (std::find(targets.begin(), targets.end(), last) == targets.end()) targets.push_back(last);
    }
    Json j{{"peft_type", "LORA"},
           {"task_type", "CAUSAL_LM"},
           {"base_model_name_or_path", fs::path(base).filename().string()},
           {"r", lora->rank},
           {"lora_alpha", lora->alpha},
           {"lora_dropout", 0.0},
           {"target_modules", targets},
           {"bias", "none"},
           {"fan_in_fan_out", false},
           {"use_rslora", false},
           {"use_dora", false},
           {"inference_mode", true}};
    save_safetensors(folder.dir() + "/adapter_model.safetensors", tensors);
    write_text(folder.dir() + "/adapter_config.json", j.dump(2) + "\n");
  } else {
    write_checkpoint(folder.dir(), tensors, kShardBytes);
    if (!expert_cfg.empty()) write_text(folder.dir() + "/expert_cfg.json", expert_cfg);
    copy_side_files(base, folder.dir());
  }
  folder.commit();
}

void write_model(const std::string& dir, Model& model, const std::string& base,
                 const std::function<void(const std::string& dir)>& verify) {
  AtomicFolder folder(dir);
  NamedTensors tensors;
  for (Param& p : model.params.all()) {
    check(!p.lora, "{}: {} carries an unmerged LoRA", dir, p.name);
    if (p.name.find(".lora_") == std::string::npos) tensors.emplace_back(p.name, p.value);
  }
  write_checkpoint(folder.dir(), tensors, kShardBytes);
  copy_side_files(base, folder.dir());
  if (verify) verify(folder.dir());
  folder.commit();
}

void load_adapter(Model& model, const std::string& dir) {
  check(fs::is_directory(dir), "adapter {}: no such folder", dir);
  if (fs::exists(dir + "/adapter_config.json")) return load_lora(model, dir);
  Checkpoint files = Checkpoint::open(dir);
  for (const std::string& key : files.names()) {
    std::string name =
        key.starts_with("layers.") ? "model." + key : key;  // published v1 adapters lack the prefix
    check(model.params.has(name),
          "adapter {}: its tensor {} does not exist in the model: made for another one?", dir, key);
    Param& p = model.params.at(name);
    Tensor t = files.get(key);
    check(t.shape == p.value.shape, "adapter {}: {} has shape {}, the model's is {}", dir, key,
          to_string(t.shape), to_string(p.value.shape));
    p.value = t;
  }
}

void write_state(const std::string& dir, Model& model, int64_t step, const std::string& run) {
  NamedTensors tensors;
  for (Param* p : model.params.trainable()) {
    tensors.emplace_back("master." + p->name, p->master);
    tensors.emplace_back("m." + p->name, p->m);
    tensors.emplace_back("v." + p->name, p->v);
  }
  AtomicFolder folder(dir);
  save_safetensors(folder.dir() + "/state.safetensors", tensors);
  Json j{{"step", step}, {"run", run}, {"hash", hash_file(folder.dir() + "/state.safetensors")}};
  write_text(folder.dir() + "/state.json", j.dump(2) + "\n");
  folder.commit();
}

int64_t read_state(const std::string& dir, Model& model, const std::string& run) {
  Json j = read_json_file(dir + "/state.json");
  check(get<std::string>(j, "run", dir) == run,
        "{}: was made by a run with other data, model or settings", dir);
  check(get<std::string>(j, "hash", dir) == hash_file(dir + "/state.safetensors"),
        "{}: state.safetensors is damaged", dir);
  Checkpoint files = Checkpoint::open(dir + "/state.safetensors");
  size_t used = 0;
  for (Param* p : model.params.trainable()) {
    for (auto [prefix, t] :
         {std::pair<const char*, Tensor*>{"master.", &p->master}, {"m.", &p->m}, {"v.", &p->v}}) {
      std::string name = prefix + p->name;
      check(files.has(name), "{}: has no {}", dir, name);
      copy_into(*t, files.get(name));
      ++used;
    }
    if (p->value.data != p->master.data) copy_into(p->value, p->master);
  }
  check(used == files.names().size(), "{}: holds {} tensors, the run trains {}", dir,
        files.names().size(), used);
  return get<int64_t>(j, "step", dir);
}

std::string newest_checkpoint(const std::string& run_dir) {
  std::string best;
  int64_t best_step = -1;
  if (!fs::is_directory(run_dir)) return best;
  for (const auto& e : fs::directory_iterator(run_dir)) {
    std::string name = e.path().filename().string();
    constexpr std::string_view kPrefix = "checkpoint-";
    int64_t step = -1;
    if (!name.starts_with(kPrefix)) continue;
    auto [end, ec] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    if (ec != std::errc() || end != name.data() + name.size() ||
        !fs::exists(e.path() / "state.json"))
      continue;
    if (step > best_step) best_step = step, best = e.path().string();
  }
  return best;
}

}  // namespace sutor
