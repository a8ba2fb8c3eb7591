// The dry run of sutor estimate against the tensors that a real step allocates, for every method.
// Against the system's figure (VmHWM): tests/estimate_check.sh.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/cpu/gemm.h"
#include "engine/dry_run.h"
#include "io/file.h"
#include "io/json.h"
#include "io/memory.h"
#include "model/estimate.h"
#include "model/trainer.h"

using namespace sutor;
namespace fs = std::filesystem;

namespace {

Json small_config() {
  return {{"model_type", "deepseek_v2"},
          {"vocab_size", 4096},
          {"hidden_size", 128},
          {"num_hidden_layers", 3},
          {"n_routed_experts", 8},
          {"num_experts_per_tok", 3},
          {"moe_intermediate_size", 96},
          {"intermediate_size", 512},
          {"num_attention_heads", 4},
          {"kv_lora_rank", 64},
          {"qk_nope_head_dim", 32},
          {"qk_rope_head_dim", 16},
          {"v_head_dim", 32},
          {"n_shared_experts", 1},
          {"first_k_dense_replace", 1}};
}

// Other attention and other MoE blocks of about the same size.
std::vector<Json> other_configs() {
  Json shared{{"model_type", "qwen2_moe"},
              {"vocab_size", 4096},
              {"hidden_size", 128},
              {"num_hidden_layers", 3},
              {"num_experts", 8},
              {"num_experts_per_tok", 3},
              {"moe_intermediate_size", 96},
              {"shared_expert_intermediate_size", 160},
              {"mlp_only_layers", {0}},
              {"intermediate_size", 512},
              {"num_attention_heads", 6},
              {"num_key_value_heads", 2},
              {"head_dim", 32}};
  Json clipped = shared;
  clipped.update(
      {{"model_type", "olmoe"}, {"intermediate_size", 96}, {"head_dim", 22}, {"clip_qkv", 0.5}});
  Json adapters{{"model_type", "camelidae"}, {"vocab_size", 4096},
                {"hidden_size", 128},        {"num_hidden_layers", 3},
                {"intermediate_size", 352},  {"num_attention_heads", 4},
                {"num_key_value_heads", 4},  {"adapter_dim", 64},
                {"num_experts", 8},          {"topk", 2},
                {"moe_scaling", 1},          {"moe_dtype", "bfloat16"},
                {"hidden_act", "silu"}};
  return {shared, clipped, adapters};
}

struct ConfigFile {
  explicit ConfigFile(const Json& j)
      : path((fs::temp_directory_path() / fmt::format("sutor-estimate-{}", getpid())).string()) {
    fs::create_directories(path);
    write_file_atomic(path + "/config.json", j.dump());
  }
  ~ConfigFile() { fs::remove_all(path); }
  std::string file() const { return path + "/config.json"; }
  std::string path;
};

struct Setting {
  const char* what;
  bool recompute = false, balance = false, lora = false;
  Compute compute = Compute::kBF16;
  bool moments_8bit = false;
};

void choose(Model& model, const Setting& s) {
  model.params.freeze_all();
  if (s.lora)
    add_lora(model, {4, 8, {}}, 1);
  else
    model.params.train(s.what);
}

}  // namespace

TEST_CASE("estimate: the dry run allocates what a real step allocates") {
  constexpr int64_t kRows = 4, kSeq = 176;
  std::vector<Json> configs = other_configs();
  configs.push_back(small_config());
  std::vector<TrainRow> rows(kRows);
  std::vector<std::vector<int32_t>> ids;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t t = 0; t < kSeq; ++t)
      rows[r].ids.push_back(static_cast<int32_t>((r * kSeq + t) * 40503 % 4096));
    rows[r].labels = rows[r].ids;
    ids.push_back(rows[r].ids);
  }
  for (Setting s :
       {Setting{"model.layers.2.mlp.experts.*"}, Setting{"model.layers.1.mlp.experts.3.*"},
        Setting{"model.layers.1.mlp.experts.*", true},
        Setting{"model.layers.2.mlp.experts.*", false, true},
        Setting{"model.layers.1.mlp.experts.*", true, true}, Setting{"*"}, Setting{"*", true},
        Setting{"*", false, false, false, Compute::kF32},
        Setting{"*", false, false, false, Compute::kBF16, true}, Setting{"*adapter*"},
        Setting{"", false, false, true}})
    for (const Json& json : configs) {
      std::string family = json["model_type"];
      if (family != "deepseek_v2" && (s.recompute || s.balance || s.compute == Compute::kF32))
        continue;
      if ((family == "camelidae") != (std::string_view(s.what) == "*adapter*") &&
          !(s.lora || std::string_view(s.what) == "*"))
        continue;
      ConfigFile config(json);
      CAPTURE(family);
      CAPTURE(s.what);
      CAPTURE(s.recompute);
      CAPTURE(s.lora);
      auto dry = dry_model(config.file(), DType::BF16);
      {
        DryRun guard;
        choose(*dry, s);
      }
      Estimate e = estimate_training(*dry, {make_batch(ids, ids)},
                                     {s.compute, s.recompute, s.balance, {}, s.moments_8bit});
      dry.reset();

      Config c = read_config(config.file());
      auto model = make_model(c, random_source(c, 1, DType::BF16));
      int64_t before = memory_stats().live;
      choose(*model, s);
      model->params.prepare_training(s.compute, {.moments_8bit = s.moments_8bit});
      model->recompute = s.recompute;
      int64_t weights = 0, prepared = memory_stats().live - before;
      for (Param* p : model->params.trainable()) weights += p->value.numel();
      // What trains lives on the heap here; its old tensors (in a real run: the file) were freed.
      int64_t freed = 0;
      if (!s.lora)
        for (Param* p : model->params.trainable()) freed += p->value.numel() * 2;
      CHECK(e.trainable_parameters == weights);
      CHECK(e.values + e.grads + e.masters + e.moments ==
            doctest::Approx(static_cast<double>(prepared + freed)).epsilon(0.002));
      reset_memory_peak();
      before = memory_stats().live;
      Ctx ctx = cpu_context(s.compute);
      TrainOptions opt;
      opt.steps = 2;
      opt.batch = kRows;
      opt.shuffle = false;
      opt.aux_alpha = s.balance ? 0.001 : 0;
      train(ctx, *model, rows, opt, 0, [](const StepLog&) { return true; });
      double real = static_cast<double>(memory_stats().peak - before);
      CHECK(static_cast<double>(e.activations + e.step) ==
            doctest::Approx(real).epsilon(0.05));  // routing is uneven in the real run
      CHECK(e.tokens == kRows * kSeq);
      CHECK(e.trained_tokens == kRows * (kSeq - 1));
    }
}

TEST_CASE("estimate: activations are kept only above the first trainable layer") {
  ConfigFile config(small_config());
  std::vector<std::vector<int32_t>> ids{std::vector<int32_t>(256, 7)};
  auto kept = [&](const char* what, bool recompute) {
    auto model = dry_model(config.file(), DType::BF16);
    model->params.freeze_all();
    model->params.train(what);
    return estimate_training(*model, {make_batch(ids, ids)}, {Compute::kBF16, recompute, false, {}})
        .kept_by_layer;
  };
  std::vector<int64_t> last = kept("model.layers.2.mlp.experts.0.*", false), all = kept("*", false),
                       again = kept("*", true);
  REQUIRE(last.size() == 3);
  CHECK(std::abs(last[0]) < 1 << 18);  // only the block's own output moves on
  CHECK(std::abs(last[1]) < 1 << 18);
  CHECK(last[2] > 1 << 18);
  for (int64_t bytes : all) CHECK(bytes > 1 << 20);
  // Recomputation keeps each block's input: T H floats.
  for (size_t i = 1; i < again.size(); ++i) CHECK(again[i] < 3 * 256 * 128 * 4);
}

TEST_CASE("estimate: a model of 16 B parameters costs address space only") {
  Json j = small_config();
  for (auto [key, value] :
       std::initializer_list<std::pair<const char*, int>>{{"vocab_size", 102400},
                                                          {"hidden_size", 2048},
                                                          {"num_hidden_layers", 27},
                                                          {"n_routed_experts", 64},
                                                          {"num_experts_per_tok", 6},
                                                          {"moe_intermediate_size", 1408},
                                                          {"intermediate_size", 10944},
                                                          {"num_attention_heads", 16},
                                                          {"kv_lora_rank", 512},
                                                          {"qk_nope_head_dim", 128},
                                                          {"qk_rope_head_dim", 64},
                                                          {"v_head_dim", 128},
                                                          {"n_shared_experts", 2}})
    j[key] = value;
  ConfigFile config(j);
  int64_t live = memory_stats().live, resident = process_bytes("VmRSS");
  {
    auto model = dry_model(config.file(), DType::BF16);
    model->params.freeze_all();
    model->params.train("*");
    std::vector<std::vector<int32_t>> ids{std::vector<int32_t>(512, 7)};
    Estimate e = estimate_training(*model, {make_batch(ids, ids)}, {});
    CHECK(e.trainable_parameters == 15706484224);
    CHECK(e.moments == 2 * 4 * e.trainable_parameters);
    CHECK(e.peak() > int64_t{20} * e.trainable_parameters);
    CHECK(process_bytes("VmRSS") - resident < 256 << 20);
  }
  CHECK(memory_stats().live == live);
}

TEST_CASE("estimate: the command's parts add up, options without effect are errors") {
  const char* binary = std::getenv("SUTOR");
  if (binary == nullptr) return;
  ConfigFile config(small_config());
  auto run = [&](const std::string& arguments) {
    std::string command = fmt::format("\"{}\" estimate {} --json >{}/out 2>{}/err", binary,
                                      arguments, config.path, config.path);
    return WEXITSTATUS(std::system(command.c_str()));
  };
  CHECK(run(config.file() + " --method full --seq 64 --batch 2 --grad-accum 3") == 0);
  Json j = parse_json(read_file(config.path + "/out"), "out");
  int64_t sum = 0;
  for (const auto& [name, bytes] : j["memory"].items()) sum += bytes.get<int64_t>();
  CHECK(j["peak_bytes"] == sum);
  CHECK(j["tokens_per_step"] == 64 * 2 * 3);
  CHECK(j["activations_by_layer"].size() == 3);
  CHECK(j["rough_seconds_per_step"].get<double>() > 0);
  std::string golden = "tests/goldens/esft_train/", data = " --data " + golden + "data.jsonl";
  CHECK(run(golden + "model --experts " + golden + "expert_cfg.json --format esft --seq 64" +
            data) == 0);
  CHECK(run(golden + "model --method full --weights F32") == 2);
  CHECK(run(config.file() + " --method full --format esft") == 2);
  CHECK(run(config.file() + " --method full --experts x") == 2);
  CHECK(run(config.file() + " --method full --ranks 4 --ep 2") == 0);
  CHECK(run(config.file() + " --method full --ranks 2 --ep 3") == 1);
  CHECK(run(config.file() + " --method full --expert-scores x") == 2);
  CHECK(run(config.file() + " --method full --data x.jsonl") == 1);
}
