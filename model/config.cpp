#include "model/config.h"

#include <filesystem>

#include "model/family.h"
#include "model/gguf.h"

namespace sutor {
namespace fs = std::filesystem;

std::vector<int> Config::moe_layers() const {
  std::vector<int> out;
  for (int i = 0; i < layers; ++i)
    if (is_moe(i)) out.push_back(i);
  return out;
}

namespace {

// Keys that families leave unread and that change no weight, activation or loss here: what files
// say of themselves, of tokens, of generation and of how transformers runs; what counts only where
// another key asks for it (groups, windows, a scaling factor); and what tensors or other keys tell
// (quantization_config, qk_head_dim).
constexpr std::string_view kNoEffect[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "auto_map",
    "aux_loss_alpha",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "ep_size",
    "finetuning_task",
    "head_dim",
    "id2label",
    "is_decoder",
    "is_encoder_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "layer_types",
    "max_window_layers",
    "model_type",
    "n_group",
    "num_key_value_heads",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "qk_head_dim",
    "quantization_config",
    "return_dict",
    "routed_scaling_factor",
    "router_aux_loss_coef",
    "sep_token_id",
    "seq_aux",
    "sliding_window",
    "task_specific_params",
    "tokenizer_class",
    "topk_group",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_sliding_window",
};

// What published models have at 0 and is not here: no effect as long as it is.
constexpr std::string_view kDropouts[] = {"attention_dropout", "embd_pdrop", "hidden_dropout",
                                          "resid_pdrop"};

bool known_without_effect(const std::string& key, const Json& value) {
  auto among = [&key](const auto& keys) {
    return std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
  };
  return among(kNoEffect) || (among(kDropouts) && value.is_number() && value.get<double>() == 0);
}

void read_eos(const Json& j, std::vector<int32_t>& eos, const std::string& file) {
  if (!j.contains("eos_token_id") || j.at("eos_token_id").is_null()) return;
  const Json& e = j.at("eos_token_id");
  auto add = [&](const Json& v) {
    check(v.is_number_unsigned() ? v.get<uint64_t>() <= INT32_MAX
                                 : v.is_number_integer() && v.get<int64_t>() >= INT32_MIN,
          "{}: eos_token_id is {}, must be a token id or a list of token ids", file,
          v.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
    if (std::find(eos.begin(), eos.end(), v.get<int32_t>()) == eos.end())
      eos.push_back(v.get<int32_t>());
  };
  if (e.is_array())
    for (const Json& v : e) add(v);
  else
    add(e);
}

}  // namespace

void read_common(const Reader& r, Config& c, const Defaults& defaults) {
  c.hidden = r.positive("hidden_size");
  c.layers = r.positive("num_hidden_layers");
  check(c.layers <= kMaxLayers, "{}: num_hidden_layers is {}, must be at most {}", r.where,
        c.layers, kMaxLayers);
  c.vocab = r.positive("vocab_size");
  c.heads = r.positive("num_attention_heads");
  c.intermediate = r.positive("intermediate_size");
  c.max_positions = r.positive("max_position_embeddings", defaults.max_positions);
  c.norm_eps = r.number("rms_norm_eps", defaults.norm_eps);
  c.tie_embeddings = r.value("tie_word_embeddings", false);
  c.init_std = r.number("initializer_range", 0.02);
  r.choice("hidden_act", "silu", {"silu"});
  c.rope = read_rope(r, defaults.rope_theta, c.max_positions, defaults.rope_types);
}

void read_experts(const Reader& r, Config& c, int64_t width) {
  const char* key = r.one_of({"n_routed_experts", "num_experts", "num_local_experts"});
  check(r.has(key), "{}: none of n_routed_experts, num_experts, num_local_experts is given",
        r.where);
  c.experts = r.positive(key);
  c.expert_width = width;
  c.route.top_k = static_cast<int>(r.positive("num_experts_per_tok"));
  check(c.route.top_k <= c.experts, "{}: num_experts_per_tok is {}, the layer has {} experts",
        r.where, c.route.top_k, c.experts);
}

void read_sequence_loss(const Reader& r, Config& c) {
  c.aux = r.value("seq_aux", true) ? AuxLoss::kSequence : AuxLoss::kBatch;
  c.aux_alpha = r.value("aux_loss_alpha", 0.001);
  c.aux_asked = r.has("aux_loss_alpha") && c.aux_alpha > 0;
}

void read_switch_loss(const Reader& r, Config& c, double alpha) {
  c.aux = AuxLoss::kSwitch;
  c.aux_alpha = r.value("router_aux_loss_coef", alpha);
  c.aux_asked = r.value("output_router_logits", false) && c.aux_alpha > 0;
}

void read_sparse_layers(const Reader& r, Config& c) {
  int64_t step = r.positive("decoder_sparse_step", 1);
  for (int64_t i = 0; i < c.layers; ++i) c.sparse.push_back((i + 1) % step == 0);
  if (!r.has("mlp_only_layers")) return;
  const Json& dense = r.j.at("mlp_only_layers");
  check(dense.is_array(), "{}: mlp_only_layers must be a list of layers", r.where);
  for (const Json& v : dense) {
    check(v.is_number_integer() && v.get<int64_t>() >= 0 && v.get<int64_t>() < c.layers,
          "{}: mlp_only_layers has {}, the layers are 0..{}", r.where, v.dump(), c.layers - 1);
    c.sparse[v.get<int64_t>()] = false;
  }
}

void read_groups(const Reader& r, Config& c) {
  c.route.n_group = static_cast<int>(r.positive("n_group"));
  c.route.topk_group = static_cast<int>(r.positive("topk_group"));
  check(c.experts % c.route.n_group == 0, "{}: n_group {} does not divide the {} experts", r.where,
        c.route.n_group, c.experts);
  check(c.route.topk_group <= c.route.n_group, "{}: topk_group is {}, n_group {}", r.where,
        c.route.topk_group, c.route.n_group);
  check(c.route.top_k <= c.route.topk_group * c.experts / c.route.n_group,
        "{}: {} experts per token do not fit {} groups of {}", r.where, c.route.top_k,
        c.route.topk_group, c.experts / c.route.n_group);
}

Config read_config(const std::string& path) {
  std::string file = fs::is_directory(path) ? path + "/config.json" : path;
  for (const char* weights : {".safetensors", ".bin", ".pt", ".pth"})
    check(!file.ends_with(weights) || !fs::exists(file),
          "{}: a file of weights alone; name the folder it is in, with its config.json", file);
  Config c;
  c.where = file;
  c.json = is_gguf(file) ? gguf_config(file) : read_json_file(file);
  check(c.json.is_object(), "{}: must be a JSON object", file);
  Reader r{c.json, file};
  c.model_type = family_of(c.json, file);
  family(c.model_type).read(r, c);
  for (const auto& [key, value] : c.json.items())
    if (!value.is_null() && !r.asked.contains(key) && !known_without_effect(key, value))
      c.unread.push_back(key);
  read_eos(c.json, c.eos, file);
  std::string generation = (fs::path(file).parent_path() / "generation_config.json").string();
  if (fs::exists(generation)) read_eos(read_json_file(generation), c.eos, generation);
  return c;
}

}  // namespace sutor
