// sutor inspect: what a model folder or an adapter folder holds.
#include <filesystem>
#include <map>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/run_checkpoint.h"
#include "engine/dry_run.h"
#include "engine/quant.h"
#include "io/chat.h"
#include "io/gguf_tokenizer.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/tokenizer.h"
#include "model/esft.h"
#include "model/gguf.h"
#include "model/names.h"
#include "model/peft.h"
#include "model/peft_config.h"
#include "model/pesc.h"
#include "model/pesc_adapter.h"
#include "model/run_state.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional(
      "PATH",
      "hub folder, .gguf file, a run's checkpoint-N, or adapter folder (ESFT, PEFT LoRA, PESC)");
  a.choice("dtype", "what the blocks of a .gguf file are unpacked to", "f32", {"bf16", "f32"});
  a.flag("json", "as JSON");
  a.flag("quiet", "no progress on stderr");
}

std::string group_of(const std::string& name) {
  switch (role_of(name).part) {
    case Part::kExpert:
      return "routed experts";
    case Part::kSharedExpert:
      return "shared experts";
    case Part::kRouter:
      return "routers";
    case Part::kMlp:
      return "dense MLPs";
    case Part::kAttention:
      return "attention";
    case Part::kNorm:
      return "norms";
    case Part::kEmbedding:
      break;
  }
  return "embeddings and head";
}

bool has(const std::string& dir, const char* name) {
  return std::filesystem::exists(std::filesystem::path(dir) / name);
}

// What an adapter trains (that is, replaces or adds) in its base.
void inspect_adapter(const std::string& dir, bool json) {
  const bool pesc = is_pesc_adapter(dir), lora = pesc || has(dir, "adapter_config.json");
  const std::string peft = pesc ? pesc_lora(dir) : dir;
  std::vector<std::string> parts{lora ? peft_weights(peft) : dir};
  if (pesc) parts.push_back(moe_weights(dir));
  int64_t total = 0, bytes = 0, tensors = 0;
  std::map<std::string, int64_t> groups;
  for (const std::string& part : parts) {
    Checkpoint files = Checkpoint::open(part);
    for (const std::string& name : files.names()) {
      const TensorInfo& info = files.info(name);
      int64_t n = numel_of(info.shape);
      groups[group_of(name)] += n;
      total += n;
      bytes += static_cast<int64_t>(info.end - info.begin);
      ++tensors;
    }
  }
  Json j{{"adapter", pesc   ? "pesc"
                     : lora ? "lora"
                            : "esft"},
         {"tensors", tensors},
         {"parameters", total},
         {"bytes", bytes},
         {"groups", groups}};
  std::string detail;
  if (lora) {
    PeftConfig::read(peft + "/adapter_config.json");  // checks it
    Json c = read_json_file(peft + "/adapter_config.json");
    j["config"] = c;
    detail = fmt::format("rank {}, alpha {}, base {}", c["r"].dump(), c["lora_alpha"].dump(),
                         c["base_model_name_or_path"].dump());
  } else {
    ExpertConfig c = read_expert_config(dir + "/expert_cfg.json");
    size_t experts = 0;
    for (const auto& [layer, ids] : c.experts) experts += ids.size();
    j["expert_cfg"] = parse_json(to_json(c), dir);
    detail = fmt::format("{} experts in {} layers; shared experts {}, other weights {}", experts,
                         c.experts.size(), c.shared_experts ? "train" : "frozen",
                         c.non_expert_modules ? "train" : "frozen");
  }
  if (json) return print_json(j);
  fmt::print("{} adapter  {} tensors, {} parameters, {:.2f} MB\n{}\n\n",
             pesc   ? "PESC"
             : lora ? "LoRA"
                    : "ESFT",
             tensors, total, static_cast<double>(bytes) * 1e-6, detail);
  for (const auto& [g, n] : groups) fmt::print("  {:<20} {:>14}\n", g, n);
}

// {"kind","bos","eos","chat_template"}; null when the folder has none.
Json tokenizer_of(const std::string& dir) {
  if (is_gguf(dir) && !has_tokenizer(GgufFile(dir))) return nullptr;
  const char* kind = dir.ends_with(".gguf")        ? "of the file"
                     : has(dir, "tokenizer.json")  ? "tokenizer.json"
                     : has(dir, "tokenizer.model") ? "tokenizer.model"
                                                   : nullptr;
  if (!kind) return nullptr;
  Tokenizer tok = Tokenizer::load(dir);
  return {{"kind", kind},
          {"bos", tok.bos()},
          {"eos", tok.eos()},
          {"chat_template", ChatTemplate::load(dir).has_value()}};
}

// Unpacks nothing.
std::unique_ptr<Model> sizes_of(const std::string& path, Compute compute) {
  DryRun dry;
  return is_run_checkpoint(path) ? load_run_checkpoint(path, compute) : load_model(path, compute);
}

void run(const Args& a) {
  const std::string& path = a.str("PATH");
  if (is_pesc_adapter(path) || has(path, "adapter_config.json") || has(path, "expert_cfg.json"))
    return inspect_adapter(path, a.on("json"));
  a.no_effect_unless(is_gguf(path), "dtype", "only a .gguf file is unpacked");
  Json state;
  check(!has(path, "state.json") || is_run_state(path),
        "{}: is no whole checkpoint: a file that its state.json names is missing", path);
  if (is_run_state(path)) {
    const StateFile file(path);
    file.verify();
    state = {{"step", get<int64_t>(file.json(), "step", path)},
             {"tensors", file.names().size()},
             {"files", file.json()["files"]},
             {"checksums", "right"}};
  }
  auto model = sizes_of(path, a.str("dtype") == "f32" ? Compute::kF32 : Compute::kBF16);
  if (model->config.adapter_dim > 0)
    for (std::string& s : beyond_authors(model->config)) model->notices.push_back(std::move(s));
  print_notices(a, *model);
  Json tokenizer = tokenizer_of(hub_folder(path));
  const Config& c = model->config;
  std::map<std::string, int64_t> groups, dtypes;
  int64_t total = 0, bytes = 0;
  for (const Param& p : model->params.all()) {
    groups[group_of(p.name)] += p.value.numel();
    dtypes[std::string(type_name(p.value))] += p.value.numel();
    total += p.value.numel();
    bytes += p.value.nbytes();
  }
  int64_t moe = static_cast<int64_t>(c.moe_layers().size());
  int64_t active = total - groups["routed experts"] +
                   (c.experts > 0 ? groups["routed experts"] / c.experts * c.route.top_k : 0);
  if (a.on("json")) {
    Json j{{"model_type", c.model_type},
           {"parameters", total},
           {"active_parameters", active},
           {"bytes", bytes},
           {"layers", c.layers},
           {"moe_layers", moe},
           {"experts", c.experts},
           {"top_k", c.experts > 0 ? c.route.top_k : 0},
           {"hidden", c.hidden},
           {"expert_width", c.expert_width},
           {"vocab", c.vocab},
           {"groups", groups},
           {"dtypes", dtypes},
           {"tokenizer", tokenizer}};
    if (!state.is_null()) j["checkpoint"] = state;
    if (c.adapter_dim > 0)
      j.update({{"adapter_dim", c.adapter_dim}, {"moe_scaling", c.adapter_scaling}});
    return print_json(j);
  }
  fmt::print("{}  {:.3f} M parameters ({:.3f} M active per token), {:.1f} MB\n", c.model_type,
             static_cast<double>(total) * 1e-6, static_cast<double>(active) * 1e-6,
             static_cast<double>(bytes) * 1e-6);
  if (!state.is_null())
    fmt::print("checkpoint of step {}: {} tensors in {} files, checksums right\n",
               state["step"].get<int64_t>(), state["tensors"].get<int64_t>(),
               state["files"].size());
  fmt::print("layers {} ({} MoE), hidden {}, heads {}, vocabulary {}\n", c.layers, moe, c.hidden,
             c.heads, c.vocab);
  fmt::print("tokenizer {}\n", tokenizer.is_null() ? "none" : tokenizer.dump());
  if (moe > 0)
    fmt::print("experts {} per MoE layer, top-{}, width {}, {}\n", c.experts, c.route.top_k,
               c.expert_width,
               c.adapter_dim > 0 ? fmt::format("adapters behind one MLP of width {}, scaled by {}",
                                               c.intermediate, c.adapter_scaling)
                                 : fmt::format("shared {}", c.shared_experts));
  fmt::print("\n");
  for (const auto& [g, n] : groups)
    if (n > 0)
      fmt::print("  {:<20} {:>14}  {:5.1f} %\n", g, n,
                 100.0 * static_cast<double>(n) / static_cast<double>(total));
  for (const auto& [d, n] : dtypes) fmt::print("  {:<20} {:>14}\n", d, n);
}

}  // namespace
const Command kInspect{"inspect",
                       "shapes, parameters by group, tokenizer of a model; what an adapter trains",
                       "sutor inspect model/", declare, run};
}  // namespace sutor
