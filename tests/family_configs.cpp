// config.json of every family: both key styles, defaults, names of the expert count, and what is
// refused in one line that names file, key, value and what is allowed.
#include "model/config.h"
#include "model/family.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;

namespace {

// What no family has a default for.
Json base(const std::string& family) {
  Json c{{"model_type", family}, {"hidden_size", 48},        {"intermediate_size", 60},
         {"vocab_size", 131},    {"num_attention_heads", 8}, {"num_hidden_layers", 4}};
  if (family.starts_with("deepseek"))
    c.update({{"kv_lora_rank", 24},
              {"qk_nope_head_dim", 16},
              {"qk_rope_head_dim", 8},
              {"v_head_dim", 12},
              {"n_routed_experts", 8},
              {"num_experts_per_tok", 2},
              {"moe_intermediate_size", 20}});
  if (family == "deepseek_v3") c.update({{"n_group", 2}, {"topk_group", 2}});
  if (family == "mixtral") c.update({{"num_local_experts", 8}, {"num_experts_per_tok", 2}});
  if (family.ends_with("_moe") || family == "olmoe")
    c.update({{"num_experts", 8}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 20}});
  if (family.starts_with("qwen")) c["num_key_value_heads"] = 4;
  return c;
}

Config read(const Folder& f, const Json& c) { return read_config(f.file("config.json", c.dump())); }

// Reads, and builds with weights of any shape: keys of the family alone are read there again.
std::string error_of(const Folder& f, const Json& c) {
  try {
    Config config = read(f, c);
    make_model(config, random_source(config, 1, DType::F32));
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

int64_t parameters(const Folder& f, const Json& c) {
  Config config = read(f, c);
  auto model = make_model(config, random_source(config, 1, DType::F32));
  int64_t n = 0;
  for (const Param& p : model->params.all()) n += p.value.numel();
  return n;
}

}  // namespace

TEST_CASE("config: the defaults that families publish") {
  Folder f;
  struct Row {
    const char* family;
    double theta, eps;
    int64_t positions;
    bool normalize;
    double aux;
  };
  for (const Row& r :
       {Row{"llama", 1e4, 1e-6, 2048, false, 0}, Row{"mistral", 1e4, 1e-6, 131072, false, 0},
        Row{"mixtral", 1e6, 1e-5, 131072, true, 0.001}, Row{"qwen2", 1e4, 1e-6, 32768, false, 0},
        Row{"qwen3", 1e4, 1e-6, 32768, false, 0}, Row{"qwen2_moe", 1e4, 1e-6, 32768, false, 0.001},
        Row{"qwen3_moe", 1e4, 1e-6, 32768, false, 0.001},
        Row{"olmoe", 1e4, 1e-5, 4096, false, 0.01}, Row{"camelidae", 1e4, 1e-6, 2048, true, 0.01},
        Row{"qwen2idae", 1e4, 1e-6, 32768, true, 0.01},
        Row{"sparsetral", 1e4, 1e-6, 32768, true, 0.01},
        Row{"deepseek_v2", 1e4, 1e-6, 2048, false, 0.001},
        Row{"deepseek_v3", 1e4, 1e-6, 4096, true, 0.001}}) {
    CAPTURE(r.family);
    Config c = read(f, base(r.family));
    CHECK(c.rope.theta == r.theta);
    CHECK(c.norm_eps == r.eps);
    CHECK(c.max_positions == r.positions);
    CHECK(c.route.normalize == r.normalize);
    CHECK(c.aux_alpha == r.aux);
    CHECK_FALSE(c.tie_embeddings);
  }
}

TEST_CASE("config: the expert count under any name, v4's and v5's RoPE, eos as number or list") {
  Folder f;
  for (const char* key : {"n_routed_experts", "num_experts", "num_local_experts"})
    for (const char* family :
         {"deepseek_v2", "deepseek_v3", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"}) {
      Json c = base(family);
      for (const char* old : {"n_routed_experts", "num_experts", "num_local_experts"}) c.erase(old);
      c[key] = 6;
      CAPTURE(family);
      CAPTURE(key);
      CHECK(read(f, c).experts == 6);
    }
  Json scaling{{"factor", 4.0}, {"original_max_position_embeddings", 64}};
  Json v4 = base("llama"), v5 = base("llama"), old = base("llama");
  scaling["rope_type"] = "yarn";
  v4.update({{"rope_theta", 500}, {"rope_scaling", scaling}});
  scaling["rope_theta"] = 500.0;
  v5["rope_parameters"] = scaling;
  scaling.erase("rope_type");
  scaling["type"] = "yarn";
  old["rope_scaling"] = scaling;
  for (const Json& c : {v4, v5, old}) {
    Config r = read(f, c);
    CHECK(r.rope.type == RopeType::kYarn);
    CHECK(r.rope.theta == 500);
    CHECK(r.rope.factor == 4);
    CHECK(r.rope.original_max_positions == 64);
    CHECK(inverse_frequencies(r.rope, 8) == inverse_frequencies(read(f, v4).rope, 8));
  }
  Json c = base("qwen2");
  c["eos_token_id"] = {3, 5};
  f.file("generation_config.json", R"({"eos_token_id":[5,7]})");
  CHECK(read(f, c).eos == std::vector<int32_t>{3, 5, 7});
}

TEST_CASE("config: which layers are MoE layers") {
  Folder f;
  Json c = base("qwen2_moe");
  c["num_hidden_layers"] = 6;
  CHECK(read(f, c).moe_layers() == std::vector<int>{0, 1, 2, 3, 4, 5});
  c["decoder_sparse_step"] = 2;
  CHECK(read(f, c).moe_layers() == std::vector<int>{1, 3, 5});
  c["mlp_only_layers"] = {0, 3};
  CHECK(read(f, c).moe_layers() == std::vector<int>{1, 5});
  Json d = base("deepseek_v2");
  d.update({{"first_k_dense_replace", 1}, {"moe_layer_freq", 2}});
  CHECK(read(f, d).moe_layers() == std::vector<int>{2});
  CHECK(read(f, base("llama")).moe_layers().empty());
  CHECK(read(f, base("mixtral")).moe_layers().size() == 4);
}

TEST_CASE("config: biases, norms and heads change the parameters as the arithmetic says") {
  Folder f;
  auto with = [&](Json c, const Json& keys) {
    c.update(keys);
    return parameters(f, c);
  };
  const int64_t H = 48, I = 60, L = 4, V = 131;
  Json l = base("llama");
  int64_t mha = L * (4 * H * H + 3 * H * I + 2 * H) + 2 * V * H + H;
  CHECK(parameters(f, l) == mha);
  CHECK(with(l, {{"tie_word_embeddings", true}}) == mha - V * H);
  CHECK(with(l, {{"attention_bias", true}}) == mha + L * 4 * H);
  CHECK(with(l, {{"mlp_bias", true}}) == mha + L * (2 * I + H));
  CHECK(with(l, {{"num_key_value_heads", 2}}) == mha - L * 2 * H * (H - 12));
  CHECK(with(l, {{"head_dim", 10}}) == mha + L * 4 * H * (80 - H));
  Json mistral = base("mistral");  // 8 key/value heads unless the file says otherwise
  mistral.update({{"num_attention_heads", 16}, {"head_dim", 4}});
  int64_t windowed = L * (2 * H * 64 + 2 * H * 32 + 3 * H * I + 2 * H) + 2 * V * H + H;
  CHECK(parameters(f, mistral) == windowed);
  CHECK(with(mistral, {{"num_key_value_heads", nullptr}}) == windowed + L * 2 * H * 32);
  Json q = base("qwen2");
  CHECK(parameters(f, q) == mha - L * 2 * H * 24 + L * (H + 2 * 24));
  CHECK(parameters(f, base("qwen3")) ==
        mha + L * (2 * H * 8 * 128 + 2 * H * 4 * 128 - 4 * H * H) + L * 2 * 128);
  Json m = base("qwen2_moe");
  int64_t attention = 2 * H * H + 2 * H * 24;
  CHECK(with(m, {{"shared_expert_intermediate_size", 28}}) ==
        L * (attention + H + 48 + 2 * H + 8 * H + 8 * 3 * H * 20 + 3 * H * 28 + H) + 2 * V * H + H);
  CHECK(with(m, {{"shared_expert_intermediate_size", 28}, {"qkv_bias", false}}) ==
        L * (attention + 2 * H + 8 * H + 8 * 3 * H * 20 + 3 * H * 28 + H) + 2 * V * H + H);
}

TEST_CASE("config: wrong values are one line each") {
  Folder f;
  struct Row {
    const char* family;
    Json change;
    std::vector<const char*> expect;
  };
  const Json dynamic{{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}, {"head_dim", 2}};
  for (const Row& r : std::vector<Row>{
           {"llama", {{"model_type", "llama4"}}, {"model_type is \"llama4\"", "known:", "llama,"}},
           {"llama", {{"hidden_size", 0}}, {"hidden_size is 0"}},
           {"mistral",
            {{"num_hidden_layers", 2147483647}},
            {"num_hidden_layers is 2147483647", "at most 65536"}},
           {"llama", {{"eos_token_id", "x"}}, {"eos_token_id is \"x\"", "token ids"}},
           {"llama", {{"eos_token_id", 2.5}}, {"eos_token_id is 2.5"}},
           {"llama", {{"eos_token_id", {3, 4294967298}}}, {"eos_token_id is 4294967298"}},
           {"llama", {{"eos_token_id", 18446744073709551615u}}, {"eos_token_id is 184467"}},
           {"llama", {{"eos_token_id", {3, nullptr}}}, {"eos_token_id is null"}},
           {"llama", {{"hidden_size", 50}}, {"num_attention_heads 8", "hidden_size 50"}},
           {"llama", {{"num_key_value_heads", 3}}, {"num_key_value_heads 3", "8 heads"}},
           {"llama", {{"num_key_value_heads", 0}}, {"num_key_value_heads is 0"}},
           {"llama", {{"head_dim", 5}}, {"head_dim is 5", "even"}},
           {"llama", {{"head_dim", "8"}}, {"head_dim", "an integer"}},
           {"llama", {{"attention_bias", 1}}, {"attention_bias", "true or false"}},
           {"llama", {{"mlp_bias", "no"}}, {"mlp_bias", "true or false"}},
           {"llama", {{"rms_norm_eps", -1e-6}}, {"rms_norm_eps"}},
           {"llama", {{"rms_norm_eps", 0}}, {"rms_norm_eps is 0"}},
           {"llama", {{"hidden_act", "gelu"}}, {"hidden_act is \"gelu\"", "known: silu"}},
           {"llama", {{"max_position_embeddings", 0}}, {"max_position_embeddings is 0"}},
           {"llama", {{"rope_theta", 0}}, {"rope_theta is 0"}},
           {"llama", {{"rope_theta", "10000"}}, {"rope_theta", "a number"}},
           {"llama", {{"partial_rotary_factor", 0.5}}, {"partial_rotary_factor is 0.5"}},
           {"llama", {{"rope_scaling", 2}}, {"rope_scaling must be an object"}},
           {"llama",
            {{"rope_scaling", {{"type", "longrope"}}}},
            {"rope_scaling: type is \"longrope\"", "llama3"}},
           {"llama",
            {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
            {"rope_parameters: unknown key full_attention", "rope_theta"}},
           {"llama", {{"rope_scaling", {{"type", "linear"}}}}, {"\"factor\" is missing"}},
           {"llama", {{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}}, {"factor is 0.5"}},
           {"llama",
            {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", "x"}}}},
            {"rope_parameters", "factor", "a number"}},
           {"llama",
            {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}},
            {"\"low_freq_factor\" is missing"}},
           {"llama",
            {{"rope_scaling",
              {{"rope_type", "llama3"},
               {"factor", 8.0},
               {"low_freq_factor", 4.0},
               {"high_freq_factor", 4.0}}}},
            {"high_freq_factor is 4"}},
           {"llama", dynamic, {"head_dim above 2"}},
           {"mistral", {{"sliding_window", -1}}, {"sliding_window is -1"}},
           {"mistral", {{"sliding_window", 2.5}}, {"sliding_window", "an integer"}},
           {"mixtral", {{"num_experts_per_tok", 9}}, {"num_experts_per_tok is 9", "8 experts"}},
           {"mixtral", {{"num_local_experts", nullptr}}, {"n_routed_experts"}},
           {"qwen2", {{"use_sliding_window", 1}}, {"use_sliding_window", "true or false"}},
           {"qwen2",
            {{"use_sliding_window", true}, {"layer_types", {"full_attention"}}},
            {"layer_types", "num_hidden_layers = 4"}},
           {"qwen3",
            {{"use_sliding_window", true},
             {"layer_types", {"full_attention", "linear_attention", "a", "b"}}},
            {"layer_types", "linear_attention", "sliding_attention"}},
           {"qwen2_moe", {{"decoder_sparse_step", 0}}, {"decoder_sparse_step is 0"}},
           {"qwen2_moe", {{"mlp_only_layers", {4}}}, {"mlp_only_layers has 4", "0..3"}},
           {"qwen2_moe", {{"mlp_only_layers", 1}}, {"mlp_only_layers must be a list"}},
           {"qwen2_moe", {{"norm_topk_prob", "true"}}, {"norm_topk_prob", "true or false"}},
           {"qwen2_moe",
            {{"shared_expert_intermediate_size", -2}},
            {"shared_expert_intermediate_size is -2"}},
           {"qwen3_moe", {{"moe_intermediate_size", 0}}, {"moe_intermediate_size is 0"}},
           {"olmoe", {{"clip_qkv", -8}}, {"clip_qkv is -8"}},
           {"deepseek_v2",
            {{"attention_bias", true}},
            {"attention_bias is true", "allowed: false"}},
           {"deepseek_v2",
            {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}},
            {"type is \"linear\"", "known: default, yarn"}},
           {"deepseek_v2", {{"qk_rope_head_dim", 7}}, {"qk_rope_head_dim is 7"}},
           {"deepseek_v3", {{"scoring_func", "softmax"}}, {"\"softmax\"", "known: sigmoid"}},
           {"deepseek_v3", {{"topk_method", "greedy"}}, {"\"greedy\"", "known: noaux_tc"}},
           {"deepseek_v3", {{"n_group", 3}}, {"n_group 3 does not divide the 8 experts"}},
           {"deepseek_v3", {{"topk_group", 5}}, {"topk_group is 5"}},
           {"deepseek_v3", {{"rope_interleave", false}}, {"rope_interleave is false"}},
           {"mixtral",
            {{"router_jitter_noise", 0.1}},
            {"router_jitter_noise is 0.1", "allowed: 0"}},
           {"camelidae", {{"topk", 9}}, {"topk is 9", "8 experts"}},
           {"camelidae", {{"num_experts", 0}}, {"num_experts is 0"}},
           {"camelidae", {{"moe_dtype", "int8"}}, {"moe_dtype is \"int8\"", "bfloat16"}},
           {"camelidae", {{"moe_scaling", 0}}, {"moe_scaling is 0"}},
           {"camelidae", {{"adapter_dim", -1}}, {"adapter_dim is -1"}},
           {"qwen2idae", {{"adapter_dropout", 0.995}}, {"adapter_dropout is 0.995", "0 .. 0.99"}},
           {"sparsetral", {{"num_experts", 3}}, {"topk is 4", "3 experts"}},
           {"llama", {{"adapter_dim", 8}, {"topk", "2"}}, {"topk", "an integer"}},
           {"mistral",
            {{"layer_types", {"full_attention", "sliding_attention", "b", "c"}}},
            {"layer_types", "sliding_window", "sliding_attention"}},
           {"mixtral",
            {{"layer_types", Json::array({"sliding_attention", "a", "b", "c"})}},
            {"layer_types", "full_attention"}},
           {"qwen3_moe",
            {{"use_sliding_window", true},
             {"layer_types",
              {"full_attention", "full_attention", "full_attention", "sliding_attention"}}},
            {"layer_types", "full_attention"}},
           {"llama",
            {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
             {"rope_parameters", {{"rope_type", "linear"}, {"factor", 4.0}}}},
            {"rope_parameters and rope_scaling differ"}},
           {"llama",
            {{"rope_scaling", {{"type", "linear"}, {"rope_type", "dynamic"}, {"factor", 2.0}}}},
            {"rope_type is \"dynamic\"", "type \"linear\""}}}) {
    Json c = base(r.family);
    c.update(r.change);
    std::string error = error_of(f, c);
    CAPTURE(r.family);
    CAPTURE(r.change.dump());
    CAPTURE(error);
    CHECK(error.find('\n') == error.npos);
    CHECK(error.find("config.json") != error.npos);
    for (const char* part : r.expect) {
      CAPTURE(part);
      CHECK(error.find(part) != error.npos);
    }
  }
}

TEST_CASE("config: what is said twice may agree, and a given attention_factor counts") {
  Folder f;
  Json c = base("llama"), yarn{{"rope_type", "yarn"}, {"type", "yarn"}, {"factor", 4.0}};
  c["rope_scaling"] = yarn;
  yarn["rope_theta"] = 10000.0;
  c["rope_parameters"] = yarn;
  CHECK(error_of(f, c) == "");
  CHECK(read(f, c).rope.type == RopeType::kYarn);
  Json m = base("mistral");
  m["layer_types"] = Json::array({"a", "b", "c", "d"});
  for (Json& t : m["layer_types"]) t = "sliding_attention";
  CHECK(error_of(f, m) == "");
  m["sliding_window"] = nullptr;
  CHECK(error_of(f, m) != "");
  for (Json& t : m["layer_types"]) t = "full_attention";
  CHECK(error_of(f, m) == "");
  for (const char* family : {"llama", "deepseek_v2", "deepseek_v3"}) {
    CAPTURE(family);
    Json d = base(family);
    d["rope_scaling"] = {
        {"type", "yarn"}, {"factor", 40.0}, {"mscale", 0.7}, {"mscale_all_dim", 1.0}};
    CHECK(read(f, d).rope.cos_scale ==
          doctest::Approx((0.07 * std::log(40.0) + 1) / (0.1 * std::log(40.0) + 1)));
    d["rope_scaling"]["attention_factor"] = 1.25;
    CHECK(read(f, d).rope.cos_scale == 1.25);
  }
}

TEST_CASE("config: keys that nobody reads are named, those of published models are not") {
  Folder f;
  auto notices = [&](const Json& c) {
    Config config = read(f, c);
    return make_model(config, random_source(config, 1, DType::F32))->notices;
  };
  // What the hub's config.json files have beside what is read.
  Json more{{"architectures", {"X"}},
            {"attention_dropout", 0.0},
            {"auto_map", Json::object()},
            {"bos_token_id", 1},
            {"eos_token_id", 2},
            {"pad_token_id", 0},
            {"initializer_range", 0.02},
            {"pretraining_tp", 1},
            {"torch_dtype", "bfloat16"},
            {"transformers_version", "4"},
            {"use_cache", true},
            {"sliding_window", 4096},
            {"max_window_layers", 4},
            {"ep_size", 1},
            {"attention_bias", false},
            {"router_aux_loss_coef", 0.01},
            {"seq_aux", true},
            {"rope_theta", 10000.0}};
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe",
                             "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"}) {
    CAPTURE(family);
    Json c = base(family);
    if (family == std::string("olmoe")) c.erase("moe_intermediate_size");
    CHECK(notices(c).empty());
    if (family != std::string("mistral") && family != std::string("mixtral") &&
        !std::string(family).starts_with("qwen2"))  // which have no attention_bias
      c.update(more);
    CHECK(notices(c).empty());
    c["rope_tetha"] = 1e6;
    std::vector<std::string> said = notices(c);
    REQUIRE(said.size() == 1);
    CHECK(said[0].ends_with(fmt::format(
        "config.json: a key without effect on a {} model; misspelt? rope_tetha", family)));
    c["tie_word_embedding"] = true;
    CHECK(notices(c)[0].ends_with("misspelt? rope_tetha, tie_word_embedding"));
    c["rope_tetha"] = c["tie_word_embedding"] = nullptr;  // null: not given
    CHECK(notices(c).empty());
    for (const char* dropout :
         {"attention_dropout", "embd_pdrop", "hidden_dropout", "resid_pdrop"}) {
      c[dropout] = 0.0;
      CHECK(notices(c).empty());
      c[dropout] = 0.1;
      CHECK(notices(c).size() == 1);
      c[dropout] = nullptr;
    }
  }
  for (const auto& e : std::filesystem::recursive_directory_iterator("tests/goldens"))
    if (e.path().filename() == "config.json") {
      CAPTURE(e.path().string());
      CHECK(read_config(e.path().string()).unread.empty());
    }
  CHECK(read_config("recipes/embedded").unread.empty());
  for (const auto& e : std::filesystem::directory_iterator("tests/goldens/gguf"))
    if (std::string name = e.path().filename().string();
        name.ends_with(".gguf") && name != "blocks.gguf" && !name.starts_with("vocab")) {
      CAPTURE(name);
      CHECK(read_config(e.path().string()).unread.empty());
    }
}
