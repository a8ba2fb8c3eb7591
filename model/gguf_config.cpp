// Metadata keys of llama.cpp (gguf-py/gguf/constants.py, convert_hf_to_gguf.py) to config.json.
// What the metadata leaves out and llama.cpp has in its code (whether the chosen experts' weights
// are normalised, say) is written out here. Test: tests/gguf.cpp.

#include <cmath>
#include <numbers>
#include <set>

#include "model/gguf.h"

namespace sutor {
namespace {

struct Meta {
  std::vector<std::shared_ptr<const GgufFile>> parts;
  const GgufFile& file;  // the first: it has the metadata
  std::string arch;

  const GgufFile* part_with(const std::string& tensor) const {
    for (const auto& p : parts)
      if (p->has(tensor)) return p.get();
    return nullptr;
  }

  bool has(const std::string& key) const { return file.find(arch + "." + key) != nullptr; }
  int64_t number(const std::string& key) const { return gguf_number(file, arch + "." + key); }
  double real(const std::string& key) const { return gguf_value<double>(file, arch + "." + key); }
  int64_t columns(const std::string& tensor, int dim) const {
    const GgufFile* part = part_with(tensor);
    check(part != nullptr, "{}: no tensor {}", file.path(), tensor);
    const Shape& s = part->info(tensor).shape;
    check(static_cast<size_t>(dim) < s.size(), "{}: tensor {} has shape {}", file.path(), tensor,
          to_string(s));
    return s[dim];
  }
};

// rope_freqs.weight holds what llama3's RoPE divides each frequency by; its parameters are found
// again, or it is refused.
Json llama3_scaling(const Meta& m, double theta, int64_t dim) {
  Tensor t = m.part_with("rope_freqs.weight")->get("rope_freqs.weight");
  check(t.dtype == DType::F32 && t.numel() == dim / 2,
        "{}: rope_freqs.weight is {} {}, F32 [{}] expected", m.file.path(), name_of(t.dtype),
        to_string(t.shape), dim / 2);
  double factor = 1;
  for (int64_t i = 0; i < t.numel(); ++i)
    factor = std::max(factor, static_cast<double>(t.f32()[i]));
  constexpr double kLow = 1, kHigh = 4, kOriginal = 8192;  // of all Llama 3.1, 3.2, 3.3
  for (int64_t i = 0; i < t.numel(); ++i) {
    double wave = 2 * std::numbers::pi *
                  std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(dim)),
           want = 1;
    if (wave > kOriginal / kLow)
      want = factor;
    else if (wave > kOriginal / kHigh) {
      double smooth = (kOriginal / wave - kLow) / (kHigh - kLow);
      want = 1 / ((1 - smooth) / factor + smooth);
    }
    check(std::abs(t.f32()[i] - want) <= 1e-4 * want,
          "{}: rope_freqs.weight[{}] is {}, llama3's RoPE of factor {} has {}", m.file.path(), i,
          t.f32()[i], factor, want);
  }
  return {{"rope_type", "llama3"},
          {"factor", factor},
          {"low_freq_factor", kLow},
          {"high_freq_factor", kHigh},
          {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)}};
}

// Keys of RoPE that are read here, and those that must be 1, which changes nothing.
void check_rope_keys(const Meta& m) {
  static const std::set<std::string> kRead{
      "dimension_count",        "freq_base",
      "scale_linear",           "scaling.type",
      "scaling.factor",         "scaling.original_context_length",
      "scaling.finetuned",      "scaling.yarn_beta_fast",
      "scaling.yarn_beta_slow", "scaling.yarn_log_multiplier"},
      kOne{"scaling.attn_factor", "scaling.yarn_attn_factor", "scaling.yarn_ext_factor"};
  const std::string rope = m.arch + ".rope.";
  for (const auto& [key, v] : m.file.metadata().items()) {
    if (!key.starts_with(rope)) continue;
    std::string name = key.substr(rope.size());
    if (kRead.count(name) != 0) continue;
    bool one = kOne.count(name) != 0;
    check(one && v.is_number() && v.get<double>() == 1, "{}: {} is {}, which is not implemented{}",
          m.file.path(), key, v.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60),
          one ? " (allowed: 1)" : "");
  }
}

// As llama.cpp reads it (llama-model.cpp): a factor without a type is linear scaling.
Json rope_scaling(const Meta& m, double theta, int64_t dim) {
  check_rope_keys(m);
  std::string type = gguf_value<std::string>(m.file, m.arch + ".rope.scaling.type", "linear");
  check(type == "none" || type == "linear" || type == "yarn",
        "{}: {}.rope.scaling.type is \"{}\", known: none, linear, yarn", m.file.path(), m.arch,
        type);
  double factor = m.has("rope.scaling.factor") ? m.real("rope.scaling.factor")
                  : m.has("rope.scale_linear") ? m.real("rope.scale_linear")
                                               : 0.0;
  if (type == "linear" && (factor == 0 || factor == 1)) type = "none";
  if (m.part_with("rope_freqs.weight")) {
    check(type == "none", "{}: rope_freqs.weight beside {} scaling is not implemented",
          m.file.path(), type);
    return llama3_scaling(m, theta, dim);
  }
  if (type == "none") return nullptr;
  check(factor > 0, "{}: {}.rope.scaling.factor is {}, {} needs one above 0", m.file.path(), m.arch,
        factor, type);
  Json j{{"rope_type", type}, {"factor", factor}};
  if (type == "linear") return j;
  j["original_max_position_embeddings"] = m.number("rope.scaling.original_context_length");
  for (auto [key, to] : {std::pair{"rope.scaling.yarn_beta_fast", "beta_fast"},
                         {"rope.scaling.yarn_beta_slow", "beta_slow"}})
    if (m.has(key)) j[to] = m.real(key);
  if (m.arch != "deepseek2") return j;
  // The converter stores 0.1 mscale_all_dim.
  double all = m.has("rope.scaling.yarn_log_multiplier")
                   ? 10 * m.real("rope.scaling.yarn_log_multiplier")
                   : 0.0;
  all = std::round(all * 1e6) * 1e-6;
  j["mscale"] = j["mscale_all_dim"] = all;
  return j;
}

void experts(const Meta& m, Json& j, const char* count) {
  j[count] = m.number("expert_count");
  j["num_experts_per_tok"] = m.number("expert_used_count");
}

int64_t expert_width(const Meta& m) {
  if (m.has("expert_feed_forward_length")) return m.number("expert_feed_forward_length");
  for (const auto& part : m.parts)
    for (const std::string& name : part->names())
      if (name.ends_with(".ffn_gate_exps.weight")) return m.columns(name, 1);
  fail("{}: neither {}.expert_feed_forward_length nor a ffn_gate_exps.weight", m.file.path(),
       m.arch);
}

void llama(const Meta& m, Json& j) {
  j["model_type"] = "llama";
  j["attention_bias"] = m.part_with("blk.0.attn_q.bias") && m.part_with("blk.0.attn_output.bias");
  j["mlp_bias"] = m.part_with("blk.0.ffn_gate.bias") != nullptr;
  if (!m.has("expert_count") || m.number("expert_count") == 0) return;
  j.erase("attention_bias");
  j.erase("mlp_bias");
  j["model_type"] = "mixtral";
  experts(m, j, "num_local_experts");
}

// Layers without a router are dense.
void dense_layers(const Meta& m, Json& j) {
  j["decoder_sparse_step"] = 1;
  j["mlp_only_layers"] = Json::array();
  int64_t layers = j["num_hidden_layers"].get<int64_t>();
  for (int64_t i = 0; i < layers && i < (1 << 16); ++i)
    if (!m.part_with(fmt::format("blk.{}.ffn_gate_inp.weight", i)))
      j["mlp_only_layers"].push_back(i);
}

void qwen2_moe(const Meta& m, Json& j) {
  experts(m, j, "num_experts");
  j["moe_intermediate_size"] = expert_width(m);
  j["shared_expert_intermediate_size"] = m.has("expert_shared_feed_forward_length")
                                             ? m.number("expert_shared_feed_forward_length")
                                             : m.columns("blk.0.ffn_gate_shexp.weight", 0);
  j["norm_topk_prob"] = false;
  dense_layers(m, j);
}

void qwen3_moe(const Meta& m, Json& j) {
  experts(m, j, "num_experts");
  j["moe_intermediate_size"] = expert_width(m);
  j["norm_topk_prob"] = true;
  dense_layers(m, j);
}

void olmoe(const Meta& m, Json& j) {
  experts(m, j, "num_experts");
  j["intermediate_size"] = expert_width(m);
  j["norm_topk_prob"] = false;
  if (m.has("attention.clamp_kqv")) j["clip_qkv"] = m.real("attention.clamp_kqv");
}

void deepseek(const Meta& m, Json& j) {
  bool sigmoid = m.has("expert_gating_func") && m.number("expert_gating_func") == 2;
  j["model_type"] = sigmoid ? "deepseek_v3" : "deepseek_v2";
  auto mla = [&](const std::string& key) {
    return m.number(m.has(key + "_mla") ? key + "_mla" : key);
  };
  int64_t rope = m.number("rope.dimension_count");
  j["qk_rope_head_dim"] = rope;
  j["qk_nope_head_dim"] = mla("attention.key_length") - rope;
  j["v_head_dim"] = mla("attention.value_length");
  j["kv_lora_rank"] = m.number("attention.kv_lora_rank");
  // 0 is absent to llama.cpp as well.
  j["q_lora_rank"] = nullptr;
  if (m.has("attention.q_lora_rank") && m.number("attention.q_lora_rank") != 0)
    j["q_lora_rank"] = m.number("attention.q_lora_rank");
  j["num_key_value_heads"] = j["num_attention_heads"];
  experts(m, j, "n_routed_experts");
  j["n_shared_experts"] = m.has("expert_shared_count") ? m.number("expert_shared_count") : 0;
  j["moe_intermediate_size"] = expert_width(m);
  j["first_k_dense_replace"] =
      m.has("leading_dense_block_count") ? m.number("leading_dense_block_count") : 0;
  j["moe_layer_freq"] = 1;
  j["routed_scaling_factor"] = m.has("expert_weights_scale") ? m.real("expert_weights_scale") : 1.0;
  j["norm_topk_prob"] = gguf_value<bool>(m.file, m.arch + ".expert_weights_norm", false);
  j["scoring_func"] = sigmoid ? "sigmoid" : "softmax";
  bool groups = m.has("expert_group_count") && m.number("expert_group_count") > 1;
  j["topk_method"] = sigmoid ? "noaux_tc" : groups ? "group_limited_greedy" : "greedy";
  j["n_group"] = groups ? m.number("expert_group_count") : 1;
  j["topk_group"] = groups ? m.number("expert_group_used_count") : 1;
}

struct Architecture {
  const char *name, *model_type;
  void (*more)(const Meta&, Json&);
};
constexpr Architecture kArchitectures[] = {
    {"llama", "llama", llama},
    {"qwen2", "qwen2", [](const Meta&, Json& j) { j["use_sliding_window"] = false; }},
    {"qwen2moe", "qwen2_moe", qwen2_moe},
    {"qwen3", "qwen3", [](const Meta&, Json&) {}},
    {"qwen3moe", "qwen3_moe", qwen3_moe},
    {"olmoe", "olmoe", olmoe},
    {"deepseek2", "deepseek_v2", deepseek},
};

}  // namespace

int64_t gguf_number(const GgufFile& file, const std::string& key) {
  const Json* v = file.find(key);
  if (v == nullptr || !v->is_array()) return gguf_value<int64_t>(file, key);
  check(!v->empty() && (*v)[0].is_number_integer(), "{}: key {} must hold integers", file.path(),
        key);
  for (const Json& x : *v)
    check(x == (*v)[0], "{}: key {} differs between layers, which is not implemented", file.path(),
          key);
  return (*v)[0].get<int64_t>();
}

bool is_gguf(const std::string& path) { return path.ends_with(".gguf"); }

Json gguf_config(const std::string& path) {
  auto parts = open_gguf_parts(path);
  const GgufFile& file = *parts[0];
  Meta m{parts, file, gguf_value<std::string>(file, "general.architecture")};
  const Architecture* arch = nullptr;
  std::vector<std::string> known;
  for (const Architecture& a : kArchitectures) {
    known.push_back(a.name);
    if (m.arch == a.name) arch = &a;
  }
  check(arch != nullptr, "{}: general.architecture is \"{}\", known: {}", path, m.arch,
        fmt::join(known, ", "));
  Json j{{"model_type", arch->model_type},
         {"hidden_size", m.number("embedding_length")},
         {"num_hidden_layers", m.number("block_count")},
         {"num_attention_heads", m.number("attention.head_count")},
         {"vocab_size", m.columns("token_embd.weight", 0)},
         {"max_position_embeddings", m.number("context_length")},
         {"rms_norm_eps", m.real("attention.layer_norm_rms_epsilon")},
         {"hidden_act", "silu"},
         {"tie_word_embeddings", m.part_with("output.weight") == nullptr}};
  int64_t heads = j["num_attention_heads"].get<int64_t>(), hidden = j["hidden_size"].get<int64_t>();
  check(heads > 0, "{}: {}.attention.head_count is {}", path, m.arch, heads);
  j["num_key_value_heads"] =
      m.has("attention.head_count_kv") ? m.number("attention.head_count_kv") : heads;
  if (m.has("feed_forward_length")) j["intermediate_size"] = m.number("feed_forward_length");
  int64_t dim = m.has("attention.key_length") ? m.number("attention.key_length") : hidden / heads;
  if (m.arch != "deepseek2") {
    j["head_dim"] = dim;
    if (m.has("rope.dimension_count"))
      check(m.number("rope.dimension_count") == dim,
            "{}: {}.rope.dimension_count is {}, heads have {}: partial rotation is not implemented",
            path, m.arch, m.number("rope.dimension_count"), dim);
  }
  arch->more(m, j);
  double theta = m.has("rope.freq_base") ? m.real("rope.freq_base") : 10000.0;
  j["rope_theta"] = theta;
  if (Json scaling = rope_scaling(m, theta, dim); !scaling.is_null()) j["rope_scaling"] = scaling;
  std::set<int64_t> ends;
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"})
    if (const Json* v = file.find(std::string("tokenizer.ggml.") + key);
        v && v->is_number_integer())
      ends.insert(v->get<int64_t>());
  if (const Json* bos = file.find("tokenizer.ggml.bos_token_id")) j["bos_token_id"] = *bos;
  if (ends.size() == 1) j["eos_token_id"] = *ends.begin();
  if (ends.size() > 1) j["eos_token_id"] = ends;
  j["dtype"] = "bfloat16";
  return j;
}

}  // namespace sutor
