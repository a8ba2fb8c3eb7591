// sutor inspect on a model of every family: parameters by group are what config.json's sizes say by
// hand; a tensor that the family does not know, or one that is missing, is named.
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/family.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

// The goldens that have weights and keep them unpacked.
std::vector<std::string> models() {
  std::vector<std::string> dirs;
  for (const std::string& family : family_names())
    for (const auto& e : fs::directory_iterator("tests/goldens/" + family))
      if (fs::exists(e.path() / "model.safetensors") &&
          !read_json_file((e.path() / "config.json").string()).contains("quantization_config"))
        dirs.push_back(e.path().string());
  return dirs;
}

std::map<std::string, int64_t> arithmetic(const Json& c) {
  std::string type = c["model_type"].get<std::string>();
  auto num = [&](const char* key, int64_t fallback = 0) {
    return c.contains(key) && c[key].is_number() ? c[key].get<int64_t>() : fallback;
  };
  auto on = [&](const char* key, bool fallback = false) {
    return c.contains(key) && c[key].is_boolean() ? c[key].get<bool>() : fallback;
  };
  int64_t H = num("hidden_size"), V = num("vocab_size"), N = num("num_attention_heads"),
          L = num("num_hidden_layers");
  int64_t G = num("num_key_value_heads", N), D = num("head_dim", H / N);
  int64_t attention = 0;
  if (int64_t R = num("kv_lora_rank")) {
    int64_t P = num("qk_nope_head_dim"), Q = num("q_lora_rank"), pe = num("qk_rope_head_dim"),
            Dv = num("v_head_dim");
    attention = Q > 0 ? H * Q + Q + Q * N * (P + pe) : H * N * (P + pe);
    attention += H * (R + pe) + R + R * N * (P + Dv) + N * Dv * H;
  } else {
    attention = 2 * H * N * D + 2 * H * G * D;
    if (type == "qwen2" || type == "qwen2idae" || (type == "qwen2_moe" && on("qkv_bias", true)))
      attention += (N + 2 * G) * D;
    if (on("attention_bias")) attention += (N + 2 * G) * D + H;
    if (type == "qwen3" || type == "qwen3_moe") attention += 2 * D;
    if (type == "olmoe") attention += (N + G) * D;
  }
  bool deepseek = type.starts_with("deepseek"),
       moe = deepseek || type == "mixtral" || type == "olmoe" || type.ends_with("_moe");
  int64_t E = std::max({num("n_routed_experts"), num("num_experts"), num("num_local_experts")});
  int64_t I = num("moe_intermediate_size", num("intermediate_size"));
  std::map<std::string, int64_t> g;
  for (int64_t i = 0; i < L; ++i) {
    bool sparse = moe;
    if (deepseek) sparse = i >= num("first_k_dense_replace") && i % num("moe_layer_freq", 1) == 0;
    if (type.ends_with("_moe")) {
      sparse = (i + 1) % num("decoder_sparse_step", 1) == 0;
      if (c.contains("mlp_only_layers") && c["mlp_only_layers"].is_array())
        for (const Json& v : c["mlp_only_layers"]) sparse = sparse && v.get<int64_t>() != i;
    }
    g["attention"] += attention;
    g["norms"] += 2 * H;
    if (int64_t A = num("adapter_dim")) {  // PESC: adapters beside the MLP
      g["routed experts"] += 2 * E * A * H;
      g["routers"] += E * H;
    }
    if (!sparse) {
      g["dense MLPs"] += 3 * H * num("intermediate_size");
      if (on("mlp_bias")) g["dense MLPs"] += 2 * num("intermediate_size") + H;
      continue;
    }
    g["routed experts"] += E * 3 * H * I;
    g["routers"] += E * H;
    if (type == "deepseek_v3") g["routers"] += E;  // the selection bias
    if (deepseek) g["shared experts"] += 3 * H * I * num("n_shared_experts");
    if (type == "qwen2_moe") {
      g["shared experts"] += 3 * H * num("shared_expert_intermediate_size");
      g["routers"] += H;  // the shared expert's gate
    }
  }
  g["norms"] += H;
  g["embeddings and head"] = V * H * (on("tie_word_embeddings") ? 1 : 2);
  return g;
}

std::string error_of(const std::string& dir) {
  try {
    load_model(dir);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("inspect: groups add up to what the config says, for every family") {
  if (binary() == nullptr) return;
  Folder f;
  std::set<std::string> families;
  for (const std::string& dir : models()) {
    CAPTURE(dir);
    Json c = read_json_file(dir + "/config.json");
    Result r = run(f, "inspect " + dir + " --json --quiet");
    REQUIRE(r.code == 0);
    Json j = parse_json(r.out, "inspect");
    int64_t total = 0;
    std::map<std::string, int64_t> want = arithmetic(c), got;
    for (const auto& [group, n] : j["groups"].items())
      if (n.get<int64_t>() > 0) got[group] = n.get<int64_t>();
    for (auto it = want.begin(); it != want.end();) it = it->second == 0 ? want.erase(it) : ++it;
    for (const auto& [group, n] : want) {
      CAPTURE(group);
      CHECK(got[group] == n);
      total += n;
    }
    CHECK(got.size() == want.size());
    CHECK(j["parameters"] == total);
    families.insert(c["model_type"].get<std::string>());
  }
  CHECK(families.size() == family_names().size());
}

TEST_CASE("inspect: an unknown and a missing tensor are named, for every family") {
  Folder f;
  for (const std::string& family : family_names()) {
    CAPTURE(family);
    std::string dir;
    for (const std::string& m : models())
      if (m.find("/" + family + "/") != std::string::npos) dir = m;
    REQUIRE_FALSE(dir.empty());
    fs::copy(dir + "/config.json", f / "config.json", fs::copy_options::overwrite_existing);
    Checkpoint files = Checkpoint::open(dir + "/model.safetensors");
    const std::string gone = "model.layers.1.self_attn.o_proj.weight",
                      alien = "model.layers.1.self_attn.x_proj.weight";
    NamedTensors less, more;
    for (const std::string& name : files.names()) {
      if (name != gone) less.emplace_back(name, files.get(name));
      more.emplace_back(name, files.get(name));
    }
    more.emplace_back(alien, zeros({2, 2}));
    save_safetensors(f / "model.safetensors", less);
    std::string error = error_of(f.path);
    CAPTURE(error);
    CHECK(error.find("the checkpoint has no tensor " + gone) != std::string::npos);
    save_safetensors(f / "model.safetensors", more);
    error = error_of(f.path);
    CHECK(error.find("tensor " + alien + " belongs to no part of a " + family) !=
          std::string::npos);
  }
}

TEST_CASE("inspect: a .gguf file's sizes are those of its unpacked weights") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string file = "tests/goldens/gguf/qwen3_moe.gguf";
  for (const char* dtype : {"f32", "bf16"}) {
    CAPTURE(dtype);
    auto model = load_model(file, dtype[0] == 'f' ? Compute::kF32 : Compute::kBF16);
    int64_t n = 0, bytes = 0;
    std::map<std::string, int64_t> types;
    for (const Param& p : model->params.all()) {
      n += p.value.numel();
      bytes += p.value.nbytes();
      types[std::string(name_of(p.value.dtype))] += p.value.numel();
    }
    Result r = run(f, "inspect " + file + " --json --quiet --dtype " + dtype);
    REQUIRE(r.code == 0);
    Json j = parse_json(r.out, "inspect");
    CHECK(j["parameters"] == n);
    CHECK(j["bytes"] == bytes);
    CHECK(j["dtypes"] == Json(types));
  }
}

TEST_CASE("inspect: what stands in a model's place is named") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string model = f / "m", rows = "tests/goldens/esft_train/rows.jsonl";
  fs::copy("tests/goldens/esft_train/model", model);
  check_one_line(run(f, "inspect " + model + "/model.safetensors"), 1,
                 {"model.safetensors: a file of weights alone; name the folder"});
  f.file("x.bin", "?");
  check_one_line(run(f, "generate " + (f / "x.bin") + " --prompt x"), 1, {"name the folder"});
  check_one_line(run(f, "score " + model + " --from-raw " + f.path + " --out " + (f / "s.json")), 2,
                 {"--from-raw", "which of the two?"});
  check_one_line(run(f, "score " + model + " --data " + rows + " --seed 1 --out " + (f / "s.json")),
                 2, {"--seed has no effect here"});
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
  for (const char* name : {"tokenizer.json", "model.safetensors"}) {
    CAPTURE(name);
    f.file(std::string("m/") + name, pointer);
    check_one_line(run(f, "inspect " + model), 1, {std::string(name) + ": only a git-lfs pointer"});
  }
}

TEST_CASE("inspect: a run's checkpoint is a model for inspect and estimate too") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string model = "tests/goldens/esft_train/model";
  REQUIRE(run(f, "train " + model + " --data tests/goldens/esft_train/rows.jsonl --method full " +
                     "--steps 1 --seq 64 --threads 1 --quiet --save-every 1 --out " + (f / "run"))
              .code == 0);
  for (const std::string command : {"inspect ", "estimate --method full --seq 16 --threads 1 "}) {
    CAPTURE(command);
    auto told = [&](const std::string& path) {
      Result r = run(f, command + path + " --json");
      CAPTURE(r.err);
      REQUIRE(r.code == 0);
      Json j = parse_json(r.out, command), same;
      for (const char* key : {"parameters", "groups", "tokenizer", "trainable_parameters"})
        if (j.contains(key)) same[key] = j[key];
      CHECK(!same.is_null());
      return same;
    };
    CHECK(told(f / "run/checkpoint-1") == told(model));
  }
}

TEST_CASE("inspect: weights that are no numbers stop what they would make rubbish of") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string model = f / "m";
  fs::copy("tests/goldens/esft_train/model", model);
  Checkpoint all = Checkpoint::open(model);
  NamedTensors tensors;
  for (const std::string& name : all.names()) {
    tensors.emplace_back(name, clone(all.get(name)));
    if (name == "model.norm.weight")  // all bits set: NaN
      std::memset(tensors.back().second.data, 0xff, 4);
  }
  fs::remove(model + "/model.safetensors");
  save_safetensors(model + "/model.safetensors", tensors);
  check_one_line(run(f, "generate " + model + " --prompt law --max-tokens 4"), 1,
                 {"the logits after token ", "are not finite", "the model's weights?"});
  f.file("d.jsonl", "{\"prompt\": \"a b\", \"completion\": \"c d\"}\n");
  for (const char* metric : {"loss", "exact"}) {
    CAPTURE(metric);
    check_one_line(
        run(f, "eval " + model + " --quiet --data " + (f / "d.jsonl") + " --metric " + metric), 1,
        {"not finite", "the model's weights?"});
  }
}

TEST_CASE("inspect: an adapter_config.json that is none is named") {
  if (binary() == nullptr) return;
  Folder f;
  fs::create_directories(f / "a");
  save_safetensors(f / "a/adapter_model.safetensors", {{"x", zeros({2})}});
  f.file("a/adapter_config.json", "[]");
  check_one_line(run(f, "inspect " + (f / "a")), 1,
                 {"a/adapter_config.json", "expected an object"});
}
