#include "model/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "engine/dry_run.h"
#include "engine/quant.h"
#include "io/file.h"
#include "io/gguf_tokenizer.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/base_print.h"
#include "model/esft.h"
#include "model/family.h"
#include "model/gguf.h"
#include "model/names.h"
#include "model/peft.h"
#include "model/pesc_adapter.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kShardBytes = int64_t{5} << 30;
}  // namespace

// By name, not "all but weights": `sutor init config.json` copies from whatever folder it stands
// in.
void copy_side_files(const std::string& from, const std::string& dir) {
  if (is_gguf(from)) {  // what it says in their place
    write_file_atomic(dir + "/config.json", gguf_config(from).dump(2) + "\n");
    GgufFile file(from);
    if (!has_tokenizer(file)) return;
    GgufTokenizer t = gguf_tokenizer(file);
    if (t.proto.empty())
      write_file_atomic(dir + "/tokenizer.json", t.json.dump(1) + "\n");
    else
      write_file_atomic(dir + "/tokenizer.model", t.proto);
    write_file_atomic(dir + "/tokenizer_config.json", t.config.dump(2) + "\n");
    return;
  }
  auto copy = [&](const std::string& name) {
    if (fs::is_regular_file(from + "/" + name))
      write_file_atomic(dir + "/" + name, read_file(from + "/" + name));
  };
  for (const char* name :
       {"config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "LICENSE"})
    copy(name);
  bool code = false;  // transformers' own classes beside the weights
  for (const char* name : {"/config.json", "/tokenizer_config.json"})
    code |= fs::is_regular_file(from + name) && read_json_file(from + name).contains("auto_map");
  if (!fs::is_directory(from)) return;
  for (const auto& e : fs::directory_iterator(from)) {
    std::string ext = e.path().extension().string();
    if (ext == ".tiktoken" || (code && ext == ".py")) copy(e.path().filename().string());
  }
}

void write_adapter(const std::string& dir, Model& model, const std::string& base,
                   const std::string& expert_cfg, const LoraOptions* lora) {
  AtomicFolder folder(dir);
  const std::vector<Param*> trained = model.params.trainable();
  const bool adapters = std::any_of(trained.begin(), trained.end(),
                                    [](const Param* p) { return role_of(p->name).adapter; });
  if (lora && adapters) {
    write_pesc(folder.dir(), model, base, *lora);
  } else if (lora) {
    write_peft(folder.dir(), model, base, *lora, base_metadata(model));
  } else {
    NamedTensors tensors;
    for (Param* p : model.params.trainable()) tensors.emplace_back(p->name, p->value);
    check(!tensors.empty(), "{}: nothing was trained", dir);
    write_checkpoint(folder.dir(), tensors, kShardBytes, base_metadata(model));
    if (!expert_cfg.empty()) write_file_atomic(folder.dir() + "/expert_cfg.json", expert_cfg);
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
    if (p.name.find(".lora_") == std::string::npos) tensors.emplace_back(p.name, unpacked(p.value));
  }
  write_checkpoint(folder.dir(), tensors, kShardBytes);
  copy_side_files(base, folder.dir());
  // The model's own config: its file may have another name, or stand elsewhere than `base`.
  std::string config = folder.dir() + "/config.json";
  if (!fs::exists(config) || read_json_file(config) != model.config.json)
    write_file_atomic(config, model.config.json.dump(2) + "\n");
  if (verify) verify(folder.dir());
  folder.commit();
}

bool is_folded(const Model& model, const Param& p) {
  return std::any_of(model.folded.begin(), model.folded.end(),
                     [&](const MergedWeight& m) { return m.param == &p; });
}

void replace_tensor(Model& model, const std::string& name, const Tensor& t, const std::string& dir,
                    const std::string& key, Replaced* replaced) {
  check(model.params.has(name),
        "adapter {}: its tensor {} does not exist in the model: made for another one?", dir, key);
  Param& p = model.params.at(name);
  check(t.shape == p.value.shape, "adapter {}: {} has shape {}, the model's is {}", dir, key,
        to_string(t.shape), to_string(p.value.shape));
  check_weight_type(t, "adapter " + dir, key);
  check(!p.lora && !is_folded(model, p),
        "adapter {}: its tensor {} replaces one that carries another adapter's LoRA", dir, key);
  if (replaced != nullptr) {
    auto [before, first] = replaced->emplace(name, dir);
    check(first, "adapter {}: its tensor {} was already replaced by adapter {}", dir, key,
          before->second);
  }
  if (!dry_run()) model.base.replaced.emplace(name, sample_of(name, p.value));
  p.value = t;
}

void load_adapter(Model& model, const std::string& dir, Replaced* replaced) {
  check(fs::is_directory(dir), "adapter {}: no such folder", dir);
  if (is_pesc_adapter(dir)) return load_pesc(model, dir, replaced);
  check(!is_pesc_adapter(dir + "/.."),
        "adapter {}: is the LoRA alone of a PESC adapter: name the folder around it", dir);
  const bool peft = fs::exists(dir + "/adapter_config.json");
  // A LoRA alone comes without a config.json.
  check(!peft || !fs::exists(dir + "/config.json") || read_config(dir).adapter_dim == 0,
        "adapter {}: moe_model.safetensors is missing: config.json says that it is of PESC", dir);
  if (peft) return load_peft(model, dir, replaced);
  if (std::string config = dir + "/config.json";
      fs::exists(config)) {  // of the model it was made on
    std::string type = family_of(read_json_file(config), config);
    check(type == model.config.model_type, "adapter {}: made for model_type {}, this model has {}",
          dir, type, model.config.model_type);
  }
  Checkpoint files = Checkpoint::open(dir);
  std::set<std::string> held;
  for (const std::string& key : files.names()) {
    std::string name =
        key.starts_with("layers.") ? "model." + key : key;  // published v1 adapters lack the prefix
    replace_tensor(model, name, files.get(key), dir, key, replaced);
    held.insert(name);
  }
  check_base(model, files, dir, [&](const Param& p) { return held.count(p.name) != 0; });
  // What the adapter says it trained is what it holds.
  std::string file = dir + "/expert_cfg.json";
  if (!fs::exists(file)) return;
  ExpertConfig config = read_expert_config(file);
  check_expert_config(config, model.config.moe_layers(), model.config.experts, file, false);
  for (const Param& p : model.params.all()) {
    bool said = trains(config, p.name), has = held.count(p.name) != 0;
    check(!said || has, "adapter {}: expert_cfg.json names {}, whose weights are not there", dir,
          p.name);
    check(said || !has, "adapter {}: holds {}, which expert_cfg.json does not name", dir, p.name);
  }
}

}  // namespace sutor
