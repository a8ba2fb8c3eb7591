// PEFT adapters against the peft library (tests/goldens/make_peft.py): logits with the adapter
// beside the weights, merged weights; and what an adapter_config.json may not say.
#include "model/peft.h"

#include <cmath>
#include <filesystem>
#include <functional>

#include "io/regex.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/peft_config.h"
#include "model/trace.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kGoldens = "tests/goldens/peft", kBase = "tests/goldens/deepseek_v2/plain";

Tensor logits(Model& model, const Checkpoint& golden) {
  Ctx ctx = cpu_context(Compute::kF32);
  for (auto& [name, t] : trace_model(ctx, model, golden, {}))
    if (name == "logits") return t;
  return {};
}

std::string error_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

void check_says(const std::string& error, const std::string& part) {
  CAPTURE(error);
  CAPTURE(part);
  CHECK(error.find(part) != std::string::npos);
  CHECK(error.find('\n') == std::string::npos);
}

// The golden adapter `name` with its config changed.
std::string changed(const Folder& f, const std::string& name,
                    const std::function<void(Json&)>& change, const std::string& base = kBase) {
  std::string dir = f / "a";
  fs::remove_all(dir);
  fs::copy(kGoldens + "/" + name, dir);
  Json j = read_json_file(dir + "/adapter_config.json");
  change(j);
  write_file_atomic(dir + "/adapter_config.json", j.dump());
  return error_of([&] {
    auto model = load_model(base);
    load_adapter(*model, dir);
  });
}

}  // namespace

TEST_CASE("peft: logits and merged weights equal the library's") {
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(kGoldens)) {
    std::string dir = entry.path().string();
    CAPTURE(dir);
    ++cases;
    Checkpoint golden = Checkpoint::open(dir + "/golden.safetensors");
    auto model = load_model(dir.find("mixtral") == dir.npos ? kBase : "tests/goldens/aux/mixtral");
    double before = relative_max(logits(*model, golden), golden.get("logits"));
    CHECK(before > 0.02);
    load_adapter(*model, dir);
    CHECK(relative_max(logits(*model, golden), golden.get("logits")) <= 1e-5);
    merge_unrounded(*model);
    CHECK(relative_max(logits(*model, golden), golden.get("logits")) <= 1e-5);
    int compared = 0;
    for (const std::string& name : golden.names()) {
      if (!name.starts_with("merged.")) continue;
      CAPTURE(name);
      Tensor w = cast(model->params.at(name.substr(7)).value, DType::F32);
      CHECK(relative_max(w, golden.get(name)) <= 1e-5);
      ++compared;
    }
    CHECK(compared >= 3);
  }
  CHECK(cases == 10);
}

TEST_CASE("peft: a folded DoRA merges into the nearest bf16 of its own weight") {
  auto model = load_model(kBase);
  load_adapter(*model, kGoldens + "/dora");
  REQUIRE(model->folded.size() == 9);
  auto merged = merge_unrounded(*model);
  round_merged(merged);
  for (const MergedWeight& m : merged) {
    CHECK(m.param->value.dtype == DType::BF16);
    check_merged(m, m.param->value);
  }
}

TEST_CASE("peft: whatever is not honoured is refused, by file, key and value") {
  Folder f;
  auto with = [&](const char* key, const Json& v) {
    return changed(f, "patterns", [&](Json& j) { j[key] = v; });
  };
  CHECK(changed(f, "patterns", [](Json&) {}) == "");
  for (const char* key : {"fan_in_fan_out", "use_qalora", "lora_bias", "some_new_key"}) {
    std::string e = with(key, true);
    check_says(e, std::string(key) + " is true, which is not implemented");
    check_says(e, "adapter_config.json");
  }
  check_says(with("layer_replication", Json::parse("[[0,2],[1,3]]")), "layer_replication");
  check_says(with("trainable_token_indices", Json::parse("[1]")), "trainable_token_indices is [1]");
  check_says(with("init_lora_weights", "pissa_niter_4"), "init_lora_weights is \"pissa_niter_4\"");
  CHECK(with("init_lora_weights", "gaussian") == "");
  check_says(with("bias", "some"), "bias is \"some\", allowed: none, all, lora_only");
  check_says(with("peft_type", "LOHA"), "known: LORA");
  check_says(with("r", 0), "r is 0");
  check_says(with("rank_pattern", Json::parse(R"({"q_proj": 0})")), "rank_pattern: q_proj is 0");
  check_says(with("rank_pattern", Json::parse(R"({"q_(proj": 1})")), "bad regular expression");
  check_says(with("rank_pattern", nullptr), "r is 3, tensor");
  check_says(with("target_modules", Json::parse(R"(["q_proj"])")), "target_modules does not name");
  check_says(with("target_modules", "(a*)*b|.*(q_proj|_mqa)"), "target_modules does not name");
  CHECK(with("target_modules", ".*(?P<part>q_proj|_mqa|kv_b_proj)") != "");  // layer 0, layer 2
  CHECK(changed(f, "patterns", [](Json& j) {
          j["layers_to_transform"] = nullptr;
          j["target_modules"] = R"(.*layers\.[12]\..*(?P<part>q_proj|_mqa|kv_b_proj)$)";
        }) == "");
  CHECK(changed(f, "all-linear", [](Json& j) {
          j["target_modules"] = "all-linear";
          j["exclude_modules"] = R"(.*\.layers\.0\.mlp\..*|.*\.(shared_)?experts\..*)";
        }) == "");
  check_says(with("layers_to_transform", Json::parse("[0, 1, 2]")),
             "target_modules names model.layers.0.self_attn.");
  check_says(with("modules_to_save", Json::parse(R"(["lm_head"])")),
             "modules_to_save names lm_head");
  check_says(with("use_dora", true), "has no lora_magnitude_vector");
  check_says(changed(f, "dora", [](Json& j) { j["use_dora"] = false; }), "use_dora is not true");
  check_says(changed(f, "dora", [](Json& j) { j["modules_to_save"] = Json::array({"lm_head"}); }),
             "modules_to_save does not name");
  // By the letters that a path ends in, as peft does.
  for (const char* name : {"norm", "layernorm", "put_layernorm"})
    CHECK(changed(f, "dora", [&](Json& j) {
            j["modules_to_save"] = Json::array({"lm_head", name});
          }) == "");
  check_says(changed(f, "dora",
                     [](Json& j) {
                       j["modules_to_save"] = Json::array({"lm_head", "layer"});
                     }),
             "modules_to_save does not name");
  check_says(changed(f, "fused", [](Json& j) { j["target_parameters"] = Json::array({"x"}); }),
             "target_parameters does not name");
  check_says(changed(f, "fused", [](Json& j) { j["r"] = 4; }), "do not fit");
}

TEST_CASE("peft: a target without factors is refused, a name that no module has is not") {
  Folder f;
  auto more = [&](const char* golden, const char* key, const char* name) {
    return changed(f, golden, [&](Json& j) { j[key].push_back(name); });
  };
  check_says(more("patterns", "target_modules", "o_proj"), "target_modules names o_proj, of which");
  CHECK(more("patterns", "target_modules", "k_proj") == "");  // MLA has none
  check_says(more("fused-down", "target_modules", "q_proj"), "target_modules names q_proj");
  // transformers 5 has no linears in routed experts: of a list for every kind of model, such names
  // stand for nothing where all layers are sparse.
  auto sparse = [&](const Json& targets) {
    return changed(
        f, "mixtral-bin", [&](Json& j) { j["target_modules"] = targets; },
        "tests/goldens/aux/mixtral");
  };
  CHECK(sparse({"o_proj", "w1", "w2", "w3", "gate_proj", "up_proj"}) == "");
  check_says(sparse({"o_proj", "w1", "q_proj"}), "target_modules names q_proj, of which");
  check_says(more("fused-down", "target_parameters", "mlp.gate.weight"),
             "target_parameters names mlp.gate.weight");
  check_says(changed(f, "fused", [](Json& j) { j["target_modules"] = R"(.*\.q_proj)"; }),
             "target_modules names .*\\.q_proj, of which");
  // One layer's stack is missing; then one projection of all layers.
  auto without = [&](const std::string& part) {
    std::string dir = f / "b";
    fs::remove_all(dir);
    fs::copy(kGoldens + "/fused", dir);
    Checkpoint all = Checkpoint::open(dir + "/adapter_model.safetensors");
    NamedTensors kept;
    for (const std::string& name : all.names())
      if (name.find(part) == name.npos) kept.emplace_back(name, clone(all.get(name)));
    fs::remove(dir + "/adapter_model.safetensors");
    save_safetensors(dir + "/adapter_model.safetensors", kept);
    return error_of([&] {
      auto model = load_model(kBase);
      load_adapter(*model, dir);
    });
  };
  check_says(without("layers.2.mlp.experts.base_layer"),
             "target_parameters names model.layers.2.mlp.experts.gate_up_proj, of which");
  check_says(without("layers.2."), "target_parameters names model.layers.2.mlp.experts.");
  check_says(without("experts.base_layer"),
             "target_parameters names mlp.experts.gate_up_proj, of which");
}

TEST_CASE("peft: a saved head of a model that shares it with the embedding") {
  Folder f;
  const std::string kTied = "tests/goldens/llama/tied", prefix = "base_model.model.";
  fs::create_directories(f / "a");
  f.file("a/adapter_config.json",
         R"({"peft_type":"LORA","r":2,"lora_alpha":2,"target_modules":[]})");
  auto base = load_model(kTied);
  Tensor changed = cast(base->head().value, DType::F32), other = clone(changed);
  changed.f32()[5] = 3;
  other.f32()[5] = 4;
  std::unique_ptr<Model> model;
  auto load = [&](const NamedTensors& tensors) {
    save_safetensors(f / "a/adapter_model.safetensors", tensors);
    model = load_model(kTied);
    return error_of([&] { load_adapter(*model, f / "a"); });
  };
  const std::string head = prefix + "lm_head.weight", embed = prefix + "model.embed_tokens.weight";
  for (const NamedTensors& t : {NamedTensors{{head, changed}}, NamedTensors{{embed, changed}},
                                NamedTensors{{head, changed}, {embed, changed}}}) {
    CHECK(load(t) == "");
    CHECK(same_bits(model->head().value, changed));
  }
  check_says(load({{head, changed}, {embed, other}}),
             "lm_head.weight and base_model.model.model.embed_tokens.weight differ");
  check_says(load({{head, changed.slice(0, 7)}}), "has shape [7");
}

TEST_CASE("peft: a square fused parameter is read as the writing version meant it") {
  Folder f;
  Json j = read_json_file(kBase + "/config.json");
  j["moe_intermediate_size"] = j["hidden_size"].get<int>() / 2;  // gate_up_proj [E, H, H]
  f.file("config.json", j.dump());
  Config c = read_config(f.path);
  int64_t E = c.experts, H = c.hidden, r = 2;
  auto make = [&] { return make_model(c, random_source(c, 1, DType::F32)); };
  std::string key = "base_model.model.model.layers.1.mlp.experts.lora_";
  Tensor a = empty({E * r, H}), b = empty({H, r * E});
  for (int64_t i = 0; i < a.numel(); ++i) a.f32()[i] = static_cast<float>(i % 17) - 8;
  for (int64_t i = 0; i < b.numel(); ++i) b.f32()[i] = static_cast<float>(i % 13) - 6;
  fs::create_directories(f / "a");
  save_safetensors(f / "a/adapter_model.safetensors",
                   {{key + "A.weight", a}, {key + "B.weight", b}});
  auto load = [&](const std::string& version) {
    Json k{{"peft_type", "LORA"},
           {"r", r},
           {"lora_alpha", r},
           {"target_modules", Json::array()},
           {"target_parameters", Json::array({"layers.1.mlp.experts.gate_up_proj"})},
           {"peft_version", version}};
    f.file("a/adapter_config.json", k.dump());
    auto model = make();
    load_adapter(*model, f / "a");
    return model;
  };
  check_says(error_of([&] { load(""); }), "peft_version is missing");
  for (const char* version : {"0.18.1", "0.19.0", "0.19.1", "0.21.2"}) {
    CAPTURE(version);
    bool old = std::string(version) < "0.19.1";
    auto model = load(version), base = make();
    merge_unrounded(*model);
    for (int64_t e : {int64_t{0}, E - 1})
      for (int64_t row : {int64_t{0}, H / 2, H - 1})
        for (int64_t col : {int64_t{3}, H - 2}) {
          // Delta of gate_up_proj[e]: [out, in], in the older form transposed.
          int64_t o = old ? col : row, i = old ? row : col;
          double delta = 0;
          for (int64_t k = 0; k < r; ++k) delta += b.row(o)[k * E + e] * a.row(e * r + k)[i];
          std::string name = fmt::format("model.layers.1.mlp.experts.{}.{}_proj.weight", e,
                                         row < H / 2 ? "gate" : "up");
          int64_t at = row % (H / 2);
          float got =
              model->params.at(name).value.row(at)[col] - base->params.at(name).value.row(at)[col];
          CHECK(got == doctest::Approx(delta).epsilon(1e-5));
        }
  }
}

TEST_CASE("regex: Python's syntax, full matches, no hang") {
  CHECK(Regex(".*\\.(0|1)\\.(?!x)(?P<n>\\w+)", "f").full_match("a.1.y"));
  CHECK_FALSE(Regex("a|ab", "f").full_match("abc"));
  CHECK(Regex("a|ab", "f").full_match("ab"));
  CHECK(Regex(".*?\\.[^.]*\\.(\\d+)\\..*", "f").group("m.layers.12.e.3.x", 1) == "12");
  check_says(error_of([] { Regex("(x", "f: key"); }), "f: key: \"(x\" is a bad regular expression");
  check_says(error_of([] { Regex("(a*)*b", "f: key").full_match(std::string(40, 'a')); }),
             "retry limit");
}
