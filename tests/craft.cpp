// sutor craft: the crafted model computes what the dense one does, bit by bit; its config has the
// published keys; what cannot be crafted is one line.
#include <cmath>
#include <filesystem>

#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/generate.h"
#include "model/names.h"
#include "model/pesc.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kGoldens = "tests/goldens/";
const CraftOptions kSmall{.experts = 5, .top_k = 2, .adapter_dim = 12, .seed = 3};

Tensor logits(Model& model, Compute compute) {
  Ctx ctx = cpu_context(compute);
  std::vector<std::vector<int32_t>> ids(2);
  for (int i = 0; i < 2 * 19; ++i) ids[i % 2].push_back(i * 37 % 129);
  Trace none;
  Tape tape(ctx, false);
  return logits_of(ctx, model, model.hidden(tape, make_batch(ids), none, nullptr).value);
}

// A config of the llama goldens on the weights of one of them.
std::unique_ptr<Model> with_rope(const std::string& name) {
  auto weights = load_model(kGoldens + "llama/tied");
  return make_model(
      read_config(kGoldens + "llama/" + name),
      [&](const std::string& n, const Shape&) { return weights->params.at(n).value; });
}

}  // namespace

TEST_CASE("craft: logits and answers are the dense model's, bit by bit") {
  for (const char* name :
       {"llama/tied", "llama/biased", "mistral/window", "qwen2/plain", "gguf/llama.gguf"}) {
    CAPTURE(name);
    auto dense = load_model(kGoldens + name);
    auto model = craft(*dense, kSmall, "x/config.json");
    for (Compute compute : {Compute::kF32, Compute::kBF16}) {
      CHECK(same_bits(logits(*dense, compute), logits(*model, compute)));
      Ctx ctx = cpu_context(compute);
      CHECK(generate(ctx, *dense, {1, 2, 3, 4, 5}, 12, {}, {}).ids ==
            generate(ctx, *model, {1, 2, 3, 4, 5}, 12, {}, {}).ids);
    }
    CHECK(model->config.experts == 5);
    CHECK(model->config.eos == dense->config.eos);
    int64_t H = model->config.hidden, L = model->config.layers, added = 0;
    const double bound = 1 / std::sqrt(static_cast<double>(H));
    for (const Param& p : model->params.all()) {
      CAPTURE(p.name);
      if (!role_of(p.name).adapter) {
        CHECK(p.value.data == dense->params.at(p.name).value.data);
        continue;
      }
      added += p.value.numel();
      CHECK(p.value.dtype == dense->head().value.dtype);
      double top = 0, squares = 0;
      for (double v : sutor::test::dense(p.value))
        top = std::max(top, std::abs(v)), squares += v * v;
      bool up = p.name.ends_with("adapter_up.weight");
      CHECK(top <= (up ? 0 : 1.01 * bound));
      double rms = std::sqrt(squares / static_cast<double>(p.value.numel()));
      CHECK(rms == doctest::Approx(up ? 0 : bound / std::sqrt(3)).epsilon(0.2));
    }
    CHECK(added == L * (5 * H + 2 * 5 * 12 * H));
  }
}

TEST_CASE(
    "craft: the config has the published keys, in the spelling that the authors' code reads") {
  auto camelidae = craft(*load_model(kGoldens + "llama/tied"), kSmall, "x/config.json");
  Json j = camelidae->config.json;
  CHECK(j["model_type"] == "camelidae");
  CHECK(j["architectures"] == Json::array({"modeling_camelidae.LlamaForCausalLM"}));
  CHECK(j["auto_map"]["AutoConfig"] == "configuration_camelidae.CamelidaeConfig");
  CHECK(j["auto_map"]["AutoModelForCausalLM"] == "modeling_camelidae.LlamaForCausalLM");
  CHECK(j["num_experts"] == 5);
  CHECK(j["topk"] == 2);
  CHECK(j["adapter_dim"] == 12);
  CHECK(j["moe_scaling"] == 0.25);
  CHECK(j["adapter_dropout"] == 0.1);
  CHECK(j["moe_dtype"] == "bfloat16");
  CHECK(j["torch_dtype"] == "bfloat16");
  CHECK(j["rope_theta"] == 500.0);
  for (const char* gone : {"rope_parameters", "dtype"}) CHECK_FALSE(j.contains(gone));
  CHECK(j["output_router_logits"] == true);  // the paper's loss, at its weight
  CHECK(j["router_aux_loss_coef"] == 0.01);
  CHECK(camelidae->config.aux_asked);
  REQUIRE(camelidae->notices.size() == 1);
  CHECK(camelidae->notices[0].find("x/config.json: rope_theta is 500") == 0);

  CraftOptions reference = reference_constants();
  Json r = craft(*load_model(kGoldens + "llama/tied"), reference, "x")->config.json;
  CHECK(r["num_experts"] == 8);
  CHECK(r["topk"] == 2);
  CHECK(r["adapter_dim"] == 64);
  CHECK(r["moe_scaling"] == 1);
  CHECK(r["output_router_logits"] == false);

  Json s = craft(*load_model(kGoldens + "mistral/window"), kSmall, "x")->config.json;
  CHECK(s["model_type"] == "sparsetral");
  CHECK(s["auto_map"]["AutoConfig"] == "configuration_sparsetral.SparsetralConfig");
  CHECK(s["sliding_window"] == 6);
  Json q = craft(*load_model(kGoldens + "qwen2/plain"), kSmall, "x")->config.json;
  CHECK(q["model_type"] == "qwen2idae");
  CHECK_FALSE(q.contains("auto_map"));  // no such code was published

  Json linear = craft(*with_rope("rope_linear"), kSmall, "x")->config.json;
  CHECK(linear["rope_scaling"].dump() == R"({"type":"linear","factor":3.0})");
  auto dense = with_rope("rope_llama3");
  auto llama3 = craft(*dense, kSmall, "x");
  CHECK(llama3->config.rope == dense->config.rope);
  REQUIRE(llama3->notices.size() == 2);
  CHECK(llama3->notices[1].find("llama3") != std::string::npos);
  auto biased = craft(*load_model(kGoldens + "llama/biased"), kSmall, "x");
  CHECK(biased->notices.size() == 4);  // rope_theta, two biases, head_dim
}

TEST_CASE("craft: the same seed the same adapters; another seed, layer or expert others") {
  auto dense = load_model(kGoldens + "llama/tied");
  CraftOptions other = kSmall;
  other.seed = 4;
  auto a = craft(*dense, kSmall, "x"), b = craft(*dense, kSmall, "x"),
       c = craft(*dense, other, "x");
  auto down = [](Model& m, int layer, int expert) {
    return m.params
        .at(fmt::format("model.layers.{}.mlp.moe_adapter.experts.expert_{}.adapter_down.weight",
                        layer, expert))
        .value;
  };
  CHECK(same_bits(down(*a, 0, 0), down(*b, 0, 0)));
  CHECK_FALSE(same_bits(down(*a, 0, 0), down(*c, 0, 0)));
  CHECK_FALSE(same_bits(down(*a, 0, 0), down(*a, 0, 1)));
  CHECK_FALSE(same_bits(down(*a, 0, 0), down(*a, 1, 0)));
}

TEST_CASE("craft: the command writes a folder that every other command takes") {
  if (binary() == nullptr) return;
  Folder f;
  fs::create_directories(f / "dense");
  for (const char* name : {"config.json", "model.safetensors"})
    fs::copy(kGoldens + "llama/tied/" + name, f / "dense/" + name);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    f.file(std::string("dense/") + name, read_file(std::string("recipes/embedded/") + name));
  Result r = run(f, "craft " + (f / "dense") +
                        " --experts 5 --top-k 2 --adapter-dim 12 --seed 3 --json --quiet --out " +
                        (f / "camel"));
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  Json j = parse_json(r.out, "craft");
  CHECK(j["model_type"] == "camelidae");
  CHECK(j["added_parameters"] == 2 * (5 * 48 + 2 * 5 * 12 * 48));
  CHECK(read_file(f / "camel/tokenizer.json") == read_file("recipes/embedded/tokenizer.json"));
  auto dense = load_model(f / "dense"), model = load_model(f / "camel");
  CHECK(same_bits(logits(*dense, Compute::kF32), logits(*model, Compute::kF32)));
  auto library = craft(*dense, kSmall, "x");
  for (const Param& p : library->params.all())
    CHECK(same_bits(p.value, model->params.at(p.name).value));

  Result i = run(f, "inspect " + (f / "camel") + " --quiet");
  CHECK(i.code == 0);
  CHECK(i.out.find("experts 5 per MoE layer, top-2, width 12, adapters behind one MLP") !=
        std::string::npos);
  fs::create_directories(f / "bare");
  for (const char* name : {"config.json", "model.safetensors"})
    fs::copy(kGoldens + "qwen2/plain/" + name, f / "bare/" + name);
  Result bare = run(f, "craft " + (f / "bare") + " --reference-constants --out " + (f / "qwen"));
  CHECK(bare.code == 0);
  CHECK(bare.err.find("has no tokenizer") != std::string::npos);
  CHECK(bare.out.find("8 experts of width 64, top-2") != std::string::npos);
}

TEST_CASE("craft: what cannot be crafted is one line, and nothing is written") {
  if (binary() == nullptr) return;
  Folder f;
  fs::create_directories(f / "full");
  f.file("full/x", "");
  auto before = entries(f);
  auto refused = [&](const std::string& model, const std::string& options, int code,
                     std::initializer_list<std::string> parts) {
    CAPTURE(model);
    CAPTURE(options);
    check_one_line(run(f, "craft " + model + " --quiet --out " + (f / "out") + " " + options), code,
                   parts);
    CHECK(entries(f) == before);
  };
  const std::string llama = kGoldens + "llama/tied";
  refused(kGoldens + "mixtral/plain", "", 1, {"mixtral", "is a MoE already", "config.json"});
  refused(kGoldens + "camelidae/unit", "", 1, {"camelidae", "has adapters already (5 experts"});
  refused(kGoldens + "camelidae/first", "", 1, {"camelidae", "has adapters already"});
  refused(kGoldens + "qwen3/plain", "", 1,
          {"no rule to craft model_type \"qwen3\"", "allowed: llama, mistral, qwen2"});
  refused(kGoldens + "gguf/llama.gguf", "", 1, {"llama.gguf", "no tokenizer"});
  refused(kGoldens + "gguf/mixtral.gguf", "", 1, {"mixtral", "is a MoE already"});
  refused(f / "nothing", "", 1, {"nothing"});
  refused(llama, "--top-k 9", 2, {"--top-k is 9", "--experts 8"});
  refused(llama, "--experts 0", 2, {"--experts"});
  refused(llama, "--adapter-dropout 0.995", 2, {"--adapter-dropout", "0.99"});
  refused(llama, "--moe-scaling nan", 2, {"--moe-scaling"});
  refused(llama, "--reference-constants --adapter-dim 8", 2,
          {"--adapter-dim has no effect", "--reference-constants"});
  check_one_line(run(f, "craft " + llama + " --out " + (f / "full")), 1, {"not empty"});
  check_one_line(run(f, "craft " + llama), 2, {"--out is missing"});
  CHECK(entries(f) == before);
}
