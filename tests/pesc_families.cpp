// Models of the PESC families as they are published: dense model_types, keys left out, torch
// shards, experts under either name; and what is wrong with one, in one line.
#include <filesystem>

#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/checkpoint.h"
#include "model/esft.h"
#include "model/family.h"
#include "model/generate.h"
#include "model/names.h"
#include "model/pesc.h"
#include "tests/command.h"
#include "tests/testing.h"
#include "tests/torch_writer.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kCamelidae = "tests/goldens/camelidae/unit",
                  kSparsetral = "tests/goldens/sparsetral/plain";

NamedTensors tensors_of(const std::string& dir) {
  NamedTensors out;
  Checkpoint c = Checkpoint::open(dir + "/model.safetensors");
  for (const std::string& name : c.names()) out.emplace_back(name, c.get(name));
  return out;
}

void same_weights(Model& a, const std::string& folder) {
  CAPTURE(folder);
  auto b = load_model(folder);
  CHECK(a.params.all().size() == b->params.all().size());
  for (const Param& p : a.params.all()) {
    CAPTURE(p.name);
    CHECK(same_bits(p.value, b->params.at(p.name).value));
  }
}

std::string error_of(const std::string& folder) {
  try {
    load_model(folder);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

void check_error(const std::string& error, std::initializer_list<std::string> parts) {
  CAPTURE(error);
  CHECK(error.find('\n') == error.npos);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(error.find(part) != error.npos);
  }
}

void replace(std::string& s, const std::string& a, const std::string& b) {
  if (size_t at = s.find(a); at != s.npos) s.replace(at, a.size(), b);
}

}  // namespace

TEST_CASE("pesc: what the names of routers, experts and the MLP before them say") {
  const std::string at = "model.layers.3.mlp.";
  Role router = role_of(at + "moe_adapter.router.weight"),
       expert = role_of(at + "moe_adapter.experts.expert_12.adapter_up.weight"),
       numbered = role_of(at + "moe_adapter.experts.12.adapter_down.weight");
  CHECK(router.part == Part::kRouter);
  CHECK(router.adapter);
  for (const Role& r : {expert, numbered}) {
    CHECK(r.part == Part::kExpert);
    CHECK(r.layer == 3);
    CHECK(r.expert == 12);
    CHECK(r.adapter);
  }
  CHECK(role_of(at + "up_proj.weight").part == Part::kMlp);
  CHECK_FALSE(role_of(at + "up_proj.weight").adapter);
  CHECK(role_of(at + "experts.expert_1.up_proj.weight").expert == -1);
  CHECK(role_of(at + "router.weight").part == Part::kMlp);
}

TEST_CASE("pesc: the family is told by the keys where model_type is the dense model's") {
  Folder f;
  for (auto [dir, dense] : {std::pair{kCamelidae, "llama"},
                            {kSparsetral, "mistral"},
                            {std::string("tests/goldens/qwen2idae/plain"), "qwen2"}}) {
    Json c = read_json_file(dir + "/config.json");
    const std::string family = c["model_type"].get<std::string>();
    CAPTURE(family);
    CHECK(crafted_family(dense) == family);
    c["model_type"] = dense;
    for (const char* key : {"adapter_dim", "moe_dtype"}) {  // any of them does
      f.file("config.json", c.dump());
      CHECK(read_config(f.path).model_type == family);
      c.erase(key);
    }
    c.erase("moe_scaling");
    f.file("config.json", c.dump());
    CHECK(read_config(f.path).model_type == dense);
    CHECK(read_config(f.path).adapter_dim == 0);
  }
  CHECK(crafted_family("qwen3").empty());
  CHECK(crafted_family("camelidae").empty());
}

TEST_CASE("pesc: keys that are absent have the values of the authors' classes") {
  Folder f;
  Json c{{"model_type", "camelidae"}, {"hidden_size", 48},        {"intermediate_size", 60},
         {"vocab_size", 131},         {"num_attention_heads", 8}, {"num_hidden_layers", 4},
         {"pad_token_id", 0},         {"pretraining_tp", 2}};
  f.file("config.json", c.dump());
  Config a = read_config(f.path);
  CHECK(a.experts == 8);
  CHECK(a.route.top_k == 1);
  CHECK(a.adapter_dim == 64);
  CHECK(a.adapter_scaling == 0.25);
  CHECK(a.adapter_dropout == 0.1);
  CHECK(a.aux_asked);
  CHECK(a.moe_layers().size() == 4);
  c["model_type"] = "sparsetral";
  c["output_router_logits"] = nullptr;
  f.file("config.json", c.dump());
  Config s = read_config(f.path);
  CHECK(s.experts == 16);
  CHECK(s.route.top_k == 4);
  CHECK(s.adapter_dim == 512);
  CHECK(s.adapter_scaling == 1);
  CHECK(s.adapter_dropout == 0);
  CHECK_FALSE(s.aux_asked);
}

TEST_CASE("pesc: torch shards with an index, experts under either name: the same weights") {
  Folder f;
  auto camelidae = load_model(kCamelidae), sparsetral = load_model(kSparsetral);
  fs::copy(kCamelidae + "/config.json", f / "config.json");
  NamedTensors first, second;
  Json index{{"metadata", {{"total_size", 1}}}, {"weight_map", Json::object()}};
  size_t n = 0;
  for (auto& t : tensors_of(kCamelidae)) {
    bool one = n++ % 2 == 0;
    index["weight_map"][t.first] = one ? "pytorch_model-00001-of-00002.bin"  //
                                       : "pytorch_model-00002-of-00002.bin";
    (one ? first : second).push_back(std::move(t));
  }
  f.file("pytorch_model-00001-of-00002.bin", torch_of(first));
  f.file("pytorch_model-00002-of-00002.bin", torch_of(second));
  f.file("pytorch_model.bin.index.json", index.dump());
  same_weights(*camelidae, f.path);

  fs::create_directories(f / "numbered");
  fs::create_directories(f / "named");
  NamedTensors numbered = tensors_of(kCamelidae), named = tensors_of(kSparsetral);
  for (auto& t : numbered) replace(t.first, ".experts.expert_", ".experts.");
  for (auto& t : named) replace(t.first, ".experts.", ".experts.expert_");
  fs::copy(kCamelidae + "/config.json", f / "numbered/config.json");
  fs::copy(kSparsetral + "/config.json", f / "named/config.json");
  save_safetensors(f / "numbered/model.safetensors", numbered);
  save_safetensors(f / "named/model.safetensors", named);
  same_weights(*camelidae, f / "numbered");
  same_weights(*sparsetral, f / "named");
  write_model(f / "written", *load_model(f / "numbered"), f / "numbered");
  CHECK(Checkpoint::open(f / "written")
            .has("model.layers.0.mlp.moe_adapter.experts.expert_0.adapter_up.weight"));
}

TEST_CASE("pesc: what the authors' merge saved is read as it is") {
  const std::string dir = "tests/goldens/pesc_train/merged";
  auto model = load_model(dir);
  CHECK(model->config.model_type == "camelidae");
  CHECK(model->config.adapter_scaling == 0.5);
  CHECK(model->notices.empty());
}

TEST_CASE("pesc: rope_theta is obeyed, with a notice where the authors' code would not") {
  Folder f;
  for (auto [dir, notices] : {std::pair{kCamelidae, 1}, {kSparsetral, 0}}) {
    CAPTURE(dir);
    Json c = read_json_file(dir + "/config.json");
    c["rope_theta"] = 5e6;
    f.file("config.json", c.dump());
    fs::copy(dir + "/model.safetensors", f / "model.safetensors",
             fs::copy_options::overwrite_existing);
    auto model = load_model(f.path);
    CHECK(model->config.rope.theta == 5e6);
    CHECK(model->notices.empty());  // inspect and craft say it, not every command
    std::vector<std::string> said = beyond_authors(model->config);
    REQUIRE(static_cast<int>(said.size()) == notices);
    if (notices > 0) CHECK(said[0].find("rope_theta is 5000000") != std::string::npos);
  }
}

TEST_CASE("pesc: tensors that are missing or of other sizes than config.json says are named") {
  Folder f;
  const std::string expert = "model.layers.1.mlp.moe_adapter.experts.expert_2.adapter_down.weight";
  NamedTensors less;
  for (auto& t : tensors_of(kCamelidae))
    if (t.first != expert) less.push_back(std::move(t));
  save_safetensors(f / "model.safetensors", less);
  Json c = read_json_file(kCamelidae + "/config.json"), changed = c;
  f.file("config.json", c.dump());
  check_error(error_of(f.path), {"has no tensor " + expert});

  save_safetensors(f / "model.safetensors", tensors_of(kCamelidae));
  changed["adapter_dim"] = 16;
  f.file("config.json", changed.dump());
  check_error(error_of(f.path), {"expert_0.adapter_down.weight has shape [12, 48]", "[16, 48]"});
  changed = c;
  changed["num_experts"] = 4;
  f.file("config.json", changed.dump());
  check_error(error_of(f.path), {"moe_adapter.router.weight has shape [5, 48]", "[4, 48]"});
  changed = c;
  changed["model_type"] = "llama";
  for (const char* key : {"adapter_dim", "moe_scaling", "moe_dtype"}) changed.erase(key);
  f.file("config.json", changed.dump());
  check_error(error_of(f.path), {"moe_adapter", "of a PESC model", "add adapter_dim", "topk"});

  NamedTensors twice = tensors_of(kCamelidae);
  auto it = std::find_if(twice.begin(), twice.end(), [&](auto& t) { return t.first == expert; });
  REQUIRE(it != twice.end());
  Tensor copy = it->second;
  twice.emplace_back("model.layers.1.mlp.moe_adapter.experts.2.adapter_down.weight", copy);
  save_safetensors(f / "model.safetensors", twice);
  f.file("config.json", c.dump());
  check_error(error_of(f.path), {"is there twice"});
}

TEST_CASE("pesc: an adapter made on a model whose config.json says llama fits it") {
  Folder f;
  Json c = read_json_file(kCamelidae + "/config.json");
  c["model_type"] = "llama";
  fs::create_directories(f / "model");
  f.file("model/config.json", c.dump());
  fs::copy(kCamelidae + "/model.safetensors", f / "model/model.safetensors");
  auto model = load_model(f / "model");
  ExpertConfig chosen{{{0, {1}}, {2, {0, 4}}}, false, false};
  for (const Param& p : model->params.all())
    if (trains(chosen, p.name)) model->params.train(p.name);
  model->params.prepare_training(Compute::kF32, {.optimizer = false});
  CHECK(model->params.trainable().size() == 6);
  for (Param* p : model->params.trainable()) p->value.f32()[0] = 3;
  write_adapter(f / "esft", *model, f / "model", to_json(chosen), nullptr);
  auto other = load_model(f / "model");
  load_adapter(*other, f / "esft");
  for (const Param& p : model->params.all())
    CHECK(same_bits(p.value, other->params.at(p.name).value));
}
