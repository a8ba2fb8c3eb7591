#include "model/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

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

namespace {

// Which of two runs' "key=value" lines differ, by key.
std::string differences(const std::string& a, const std::string& b) {
  std::map<std::string, std::set<std::string>> values;  // the same in both: one
  std::map<std::string, int> times;
  for (const std::string* text : {&a, &b}) {
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      std::string key = line.substr(0, line.find('='));
      values[key].insert(line);
      ++times[key];
    }
  }
  std::vector<std::string> keys;
  for (const auto& [key, v] : values)
    if (v.size() > 1 || times[key] == 1) keys.push_back(key);
  return fmt::format("{}", fmt::join(keys, ", "));
}

}  // namespace

// The master is what float32 has beyond the bf16 value, which then belongs to the state.
static bool is_rest(const Param& p) { return p.master.dtype == DType::I16; }

void write_state(const std::string& dir, Model& model, int64_t step, const std::string& run) {
  NamedTensors tensors;
  for (Param* p : model.params.trainable()) {
    tensors.emplace_back("master." + p->name, p->master);
    if (is_rest(*p)) tensors.emplace_back("value." + p->name, p->value);
    tensors.emplace_back("m." + p->name, p->m);
    tensors.emplace_back("v." + p->name, p->v);
    if (!p->m_scale) continue;
    tensors.emplace_back("m_scale." + p->name, p->m_scale);
    tensors.emplace_back("v_scale." + p->name, p->v_scale);
  }
  AtomicFolder folder(dir);
  save_safetensors(folder.dir() + "/state.safetensors", tensors);
  Json j{{"step", step}, {"run", run}, {"hash", hash_file(folder.dir() + "/state.safetensors")}};
  write_file_atomic(folder.dir() + "/state.json", j.dump(2) + "\n");
  folder.commit();
}

int64_t read_state(const std::string& dir, Model& model, const std::string& run) {
  Json j = read_json_file(dir + "/state.json");
  std::string was = get<std::string>(j, "run", dir);
  check(was == run, "{}: was made by a run with other data, model or settings: {}", dir,
        differences(was, run));
  check(get<std::string>(j, "hash", dir) == hash_file(dir + "/state.safetensors"),
        "{}: state.safetensors is damaged", dir);
  Checkpoint files = Checkpoint::open(dir + "/state.safetensors");
  size_t used = 0;
  for (Param* p : model.params.trainable()) {
    Tensor none;
    for (auto [prefix, t] : {std::pair<const char*, Tensor*>{"master.", &p->master},
                             {"value.", is_rest(*p) ? &p->value : &none},
                             {"m.", &p->m},
                             {"v.", &p->v},
                             {"m_scale.", &p->m_scale},
                             {"v_scale.", &p->v_scale}}) {
      if (!*t) continue;  // of moments in 8 bits only, or of float32 masters
      std::string name = prefix + p->name;
      check(files.has(name), "{}: has no {}", dir, name);
      Tensor stored = files.get(name);
      check(stored.dtype == t->dtype, "{}: {} is {}, the run keeps {}", dir, name,
            name_of(stored.dtype), name_of(t->dtype));
      copy_into(*t, stored);
      ++used;
    }
    if (p->value.data != p->master.data && !is_rest(*p)) copy_into(p->value, p->master);
  }
  check(used == files.names().size(), "{}: holds {} tensors, the run trains {}", dir,
        files.names().size(), used);
  return get<int64_t>(j, "step", dir);
}

namespace {

// Checkpoints by step: whole ones, or those that lack a file.
std::map<int64_t, std::string> checkpoints(const std::string& run_dir, bool whole = true) {
  std::map<int64_t, std::string> found;
  if (!fs::is_directory(run_dir)) return found;
  for (const auto& e : fs::directory_iterator(run_dir)) {
    std::string name = e.path().filename().string();
    constexpr std::string_view kPrefix = "checkpoint-";
    int64_t step = -1;
    if (!name.starts_with(kPrefix)) continue;
    auto [end, ec] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    if (ec == std::errc() && end == name.data() + name.size() && step >= 0 &&
        whole ==
            (fs::exists(e.path() / "state.json") && fs::exists(e.path() / "state.safetensors")))
      found[step] = e.path().string();
  }
  return found;
}

}  // namespace

std::string newest_checkpoint(const std::string& run_dir, std::string* torn) {
  auto found = checkpoints(run_dir), others = checkpoints(run_dir, false);
  if (torn != nullptr && !others.empty() &&
      (found.empty() || others.rbegin()->first > found.rbegin()->first))
    *torn = others.rbegin()->second;
  return found.empty() ? "" : found.rbegin()->second;
}

void keep_newest_checkpoints(const std::string& run_dir, int64_t keep) {
  auto found = checkpoints(run_dir);
  while (static_cast<int64_t>(found.size()) > keep) {
    fs::path old = found.begin()->second;
    // Out of sight first: a removal cut off must not leave half a checkpoint. sweep_leftovers()
    // knows the name.
    fs::path aside =
        old.parent_path() / fmt::format(".sutor-tmp-{}-{}", old.filename().string(), getpid());
    std::error_code ec;
    fs::rename(old, aside, ec);
    if (!ec) fs::remove_all(aside, ec);
    check(!ec, "{}: cannot be removed: {}", old.string(), ec.message());
    found.erase(found.begin());
  }
}

}  // namespace sutor
