#include "model/config.h"

#include <algorithm>
#include <filesystem>

namespace sutor {
namespace fs = std::filesystem;

std::vector<int> Config::moe_layers() const {
  std::vector<int> out;
  for (int i = 0; i < layers; ++i)
    if (is_moe(i)) out.push_back(i);
  return out;
}

namespace {

struct Reader {
  const Json& j;
  const std::string& where;
  bool has(const char* key) const { return j.contains(key) && !j.at(key).is_null(); }
  int64_t positive(const char* key) const {
    int64_t v = get<int64_t>(j, key, where);
    check(v > 0 && v < (int64_t{1} << 31), "{}: {} is {}, must be 1 or more", where, key, v);
    return v;
  }
  template <class T>
  T value(const char* key, T fallback) const {
    return has(key) ? get<T>(j, key, where) : fallback;
  }
  // The value of a key must be one of those this engine implements.
  std::string choice(const char* key, const std::string& fallback,
                     const std::vector<std::string>& allowed) const {
    std::string v = value<std::string>(key, fallback);
    check(std::find(allowed.begin(), allowed.end(), v) != allowed.end(),
          "{}: {} is \"{}\", known: {}", where, key, v, fmt::join(allowed, ", "));
    return v;
  }
};

RopeConfig read_rope(const Reader& r) {
  RopeConfig rope;
  rope.theta = r.value<double>("rope_theta", 10000.0);
  const Json* s = nullptr;
  if (r.has("rope_scaling")) s = &r.j.at("rope_scaling");
  if (r.has("rope_parameters")) s = &r.j.at("rope_parameters");
  if (s == nullptr) return rope;
  check(s->is_object(), "{}: rope_scaling must be an object or null", r.where);
  std::string where = r.where + ": rope_scaling";
  Reader q{*s, where};
  rope.theta = q.value<double>("rope_theta", rope.theta);
  const char* key = q.has("rope_type") ? "rope_type" : "type";
  std::string type = q.choice(key, "default", {"default", "yarn"});
  if (type == "default") return rope;
  rope.yarn = true;
  rope.factor = get<double>(*s, "factor", where);
  check(rope.factor >= 1, "{}: factor is {}, must be >= 1", where, rope.factor);
  rope.beta_fast = q.value("beta_fast", 32.0);
  rope.beta_slow = q.value("beta_slow", 1.0);
  rope.mscale = q.value("mscale", 1.0);
  rope.mscale_all_dim = q.value("mscale_all_dim", 0.0);
  rope.original_max_positions = q.has("original_max_position_embeddings")
                                    ? get<int64_t>(*s, "original_max_position_embeddings", where)
                                    : r.value<int64_t>("max_position_embeddings", 4096);
  return rope;
}

void read_eos(const Json& j, std::vector<int32_t>& eos) {
  if (!j.contains("eos_token_id")) return;
  const Json& e = j.at("eos_token_id");
  auto add = [&](const Json& v) {
    if (v.is_number_integer() && std::find(eos.begin(), eos.end(), v.get<int32_t>()) == eos.end())
      eos.push_back(v.get<int32_t>());
  };
  if (e.is_array())
    for (const Json& v : e) add(v);
  else
    add(e);
}

}  // namespace

Config read_config(const std::string& path) {
  std::string file = fs::is_directory(path) ? path + "/config.json" : path;
  Config c;
  c.where = file;
  c.json = read_json_file(file);
  check(c.json.is_object(), "{}: must be a JSON object", file);
  Reader r{c.json, c.where};
  c.model_type = r.choice("model_type", "", {"deepseek_v2"});
  c.hidden = r.positive("hidden_size");
  c.layers = r.positive("num_hidden_layers");
  c.vocab = r.positive("vocab_size");
  c.heads = r.positive("num_attention_heads");
  c.intermediate = r.positive("intermediate_size");
  c.max_positions = r.value<int64_t>("max_position_embeddings", 2048);
  c.norm_eps = r.value("rms_norm_eps", 1e-6);
  c.tie_embeddings = r.value("tie_word_embeddings", false);
  r.choice("hidden_act", "silu", {"silu"});
  check(!r.value("attention_bias", false),
        "{}: attention_bias true is not implemented for deepseek_v2 (allowed: false)", file);
  c.rope = read_rope(r);
  if (r.has("q_lora_rank")) c.q_lora_rank = r.positive("q_lora_rank");
  c.kv_lora_rank = r.positive("kv_lora_rank");
  c.qk_nope_dim = r.positive("qk_nope_head_dim");
  c.qk_rope_dim = r.positive("qk_rope_head_dim");
  check(c.qk_rope_dim % 2 == 0, "{}: qk_rope_head_dim is {}, must be even", file, c.qk_rope_dim);
  c.v_head_dim = r.positive("v_head_dim");
  c.experts = r.positive(r.has("n_routed_experts") ? "n_routed_experts"
                         : r.has("num_experts")    ? "num_experts"
                                                   : "num_local_experts");
  c.shared_experts = r.value<int64_t>("n_shared_experts", 0);
  c.expert_width = r.positive("moe_intermediate_size");
  c.first_dense = r.value<int64_t>("first_k_dense_replace", 0);
  c.moe_freq = r.has("moe_layer_freq") ? r.positive("moe_layer_freq") : 1;
  c.route.top_k = static_cast<int>(r.positive("num_experts_per_tok"));
  check(c.route.top_k <= c.experts, "{}: num_experts_per_tok is {}, the layer has {} experts", file,
        c.route.top_k, c.experts);
  r.choice("scoring_func", "softmax", {"softmax"});
  c.route.normalize = r.value("norm_topk_prob", false);
  // modeling_deepseek.py: the factor scales the weights only where they are not normalised.
  c.route.scale = c.route.normalize && c.route.top_k > 1
                      ? 1.0f
                      : static_cast<float>(r.value("routed_scaling_factor", 1.0));
  if (c.route.top_k == 1) c.route.normalize = false;
  if (r.choice("topk_method", "greedy", {"greedy", "group_limited_greedy"}) ==
      "group_limited_greedy") {
    c.route.n_group = static_cast<int>(r.positive("n_group"));
    c.route.topk_group = static_cast<int>(r.positive("topk_group"));
    check(c.experts % c.route.n_group == 0, "{}: n_group {} does not divide the {} experts", file,
          c.route.n_group, c.experts);
    check(c.route.topk_group <= c.route.n_group, "{}: topk_group is {}, n_group {}", file,
          c.route.topk_group, c.route.n_group);
    check(c.route.top_k <= c.route.topk_group * c.experts / c.route.n_group,
          "{}: {} experts per token do not fit {} groups of {}", file, c.route.top_k,
          c.route.topk_group, c.experts / c.route.n_group);
  }
  c.aux_alpha = r.value("aux_loss_alpha", 0.001);
  c.seq_aux = r.value("seq_aux", true);
  c.init_std = r.value("initializer_range", 0.02);
  read_eos(c.json, c.eos);
  std::string generation = (fs::path(file).parent_path() / "generation_config.json").string();
  if (fs::exists(generation)) read_eos(read_json_file(generation), c.eos);
  return c;
}

}  // namespace sutor
