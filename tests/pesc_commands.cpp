// PESC by commands: train, resume, merge, a run's checkpoint, adapters that do not fit; and a base
// of 4 bits under the other methods. Against the authors' code: tests/pesc.cpp.
#include <doctest/doctest.h>

#include <filesystem>

#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/checkpoint.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {
const std::string kDir = "tests/goldens/pesc_train";
}  // namespace

TEST_CASE("pesc: train, resume, merge by commands; wrong adapters are one line") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string model = f / "base";
  fs::copy(kDir + "/model", model);
  fs::copy("tests/goldens/tokenizer/spm/tokenizer.model", model + "/tokenizer.model");
  f.file("base/tokenizer_config.json",
         R"({"tokenizer_class":"LlamaTokenizer","bos_token":"<s>","eos_token":"</s>"})");
  const std::string train = "train " + model + " --data " + kDir +
                            "/rows.jsonl --threads 2 --quiet --seq 32 --rank 2 --method pesc ";
  Result r = run(f, train + "--quantize nf4 --aux-loss 0.01 --steps 4 --out " + (f / "a"));
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  for (const char* file :
       {"adapter_config.json", "adapter_model.safetensors", "moe_model.safetensors", "config.json"})
    CHECK(fs::exists(f / ("a/adapter/" + std::string(file))));
  const std::string log = read_file(f / "a/log.jsonl");
  CHECK(log.find("\"load_cv\":[") != std::string::npos);
  CHECK(log.find("\"aux_loss\":") != std::string::npos);
  CHECK(run(f, train + "--quantize nf4 --aux-loss 0.01 --steps 4 --save-every 2 --out " + (f / "b"))
            .code == 0);
  fs::remove(f / "b/checkpoint-4/state.json");  // torn: not taken, and said so
  fs::remove_all(f / "b/adapter");
  Result again =
      run(f, train + "--quantize nf4 --aux-loss 0.01 --steps 4 --save-every 2 --resume " +
                 "--out " + (f / "b"));
  CAPTURE(again.err);
  CHECK(again.code == 0);
  CHECK(again.err.find("checkpoint-4: is not whole; going on from " + (f / "b/checkpoint-2")) !=
        std::string::npos);
  for (const char* file : {"adapter_model.safetensors", "moe_model.safetensors"})
    CHECK(read_file(f / (std::string("a/adapter/") + file)) ==
          read_file(f / (std::string("b/adapter/") + file)));
  for (const std::string& dir : {f / "a/adapter", kDir + "/authors/checkpoint-5"}) {
    Result i = run(f, "inspect " + dir + " --json");
    CAPTURE(i.err);
    const Json j = parse_json(i.out, "inspect");
    CHECK(j["adapter"] == "pesc");
    CHECK(j["tensors"] == 3 * (1 + 2 * 5) + 2 * 21);
  }
  Result m = run(f, "merge " + model + " --adapter " + (f / "a/adapter") + " --out " + (f / "m"));
  CAPTURE(m.err);
  CHECK(m.code == 0);
  // A run's checkpoint merges as the model that it is.
  Result n = run(f, "merge " + (f / "b/checkpoint-4") + " --out " + (f / "n"));
  CAPTURE(n.err);
  CHECK(n.code == 0);
  CHECK(n.out.find("merged " + (f / "b/checkpoint-4")) == 0);
  CHECK(read_file(f / "n/model.safetensors") == read_file(f / "m/model.safetensors"));
  CHECK(read_file(f / "n/config.json") == read_file(f / "m/config.json"));
  check_one_line(
      run(f, "merge " + model + " --adapter " + (f / "b/checkpoint-2") + " --out " + (f / "x")), 1,
      {"checkpoint-2: is a checkpoint of a run", "name it as MODEL"});
  // The authors' balance loss is a constant, and said to be one.
  Json asks = read_json_file(model + "/config.json");
  asks["output_router_logits"] = true;
  fs::copy(model, f / "asks", fs::copy_options::recursive);
  f.file("asks/config.json", asks.dump());
  Result aux = run(f, "train " + (f / "asks") + " --data " + kDir +
                          "/rows.jsonl --threads 2 --seq 32 --rank 2 --method pesc --steps 1 "
                          "--aux authors --out " +
                          (f / "aux"));
  CAPTURE(aux.err);
  CHECK(aux.code == 0);
  CHECK(aux.err.find("the constant") != std::string::npos);
  CHECK(aux.err.find("without gradient") != std::string::npos);
  CHECK(aux.err.find("of the router") == std::string::npos);
  // A run's checkpoint is a model, too.
  CHECK(run(f, "eval " + (f / "b/checkpoint-2") + " --data " + kDir +
                   "/rows.jsonl --threads 1 --quiet")
            .code == 0);

  auto wrong = [&](const std::string& on, std::initializer_list<std::string> parts) {
    check_one_line(run(f, "merge " + on + " --adapter " + (f / "w") + " --out " + (f / "x")), 1,
                   parts);
    CHECK_FALSE(fs::exists(f / "x"));
  };
  auto fresh = [&](const std::string& from) {
    fs::remove_all(f / "w");
    fs::copy(from, f / "w", fs::copy_options::recursive);
  };
  auto edited = [&](auto edit) {
    NamedTensors tensors;
    Checkpoint files = Checkpoint::open(f / "a/adapter/moe_model.safetensors");
    for (const std::string& n : files.names()) tensors.emplace_back(n, clone(files.get(n)));
    edit(tensors);
    fresh(f / "a/adapter");
    fs::remove(f / "w/moe_model.safetensors");
    save_safetensors(f / "w/moe_model.safetensors", tensors);
  };
  fresh(f / "a/adapter");
  wrong("tests/goldens/llama/biased", {"llama model has no adapters", "craft"});
  wrong("tests/goldens/camelidae/quarter", {"num_hidden_layers 3", "2", "another"});
  fresh(f / "a/adapter");
  fs::remove(f / "w/moe_model.safetensors");
  wrong(model, {"moe_model.safetensors is missing"});
  fresh(f / "a/adapter");
  fs::remove(f / "w/config.json");
  {
    auto loaded = load_model(model);
    Replaced replaced;
    load_adapter(*loaded, f / "w", &replaced);
    REQUIRE(loaded->notices.size() == 1);
    CHECK(loaded->notices[0].find("cannot be checked") != std::string::npos);
  }
  edited([](NamedTensors& t) { t.pop_back(); });
  wrong(model, {"moe_model.safetensors holds no model.layers."});
  edited([](NamedTensors& t) { t.emplace_back("model.norm.weight", zeros({48})); });
  wrong(model, {"model.norm.weight is no router or adapter"});
  edited([](NamedTensors& t) {
    for (auto& [name, tensor] : t)
      if (name.ends_with("adapter_down.weight")) tensor = zeros({8, 48});
  });
  wrong(model, {"adapter_dim 8", "12"});
  fresh(kDir + "/authors/checkpoint-5/adapter_model");
  fs::copy(kDir + "/authors/checkpoint-5/moe_model.bin", f / "moe_model.bin");
  wrong(model, {"LoRA alone"});
  fs::remove(f / "moe_model.bin");
  fresh(kDir + "/authors/checkpoint-5");
  fs::remove_all(f / "w/adapter_model");
  wrong(model, {"adapter_config.json"});
  Json config = read_json_file(model + "/config.json");
  config["moe_scaling"] = 0.25;
  fresh(f / "a/adapter");
  fs::copy(model, f / "scaled", fs::copy_options::recursive);
  f.file("scaled/config.json", config.dump());
  wrong(f / "scaled", {"moe_scaling 0.5", "0.25"});
  fs::copy(model, f / "dense");  // its tokenizer
  for (const char* file : {"config.json", "model.safetensors"})
    fs::copy(std::string("tests/goldens/llama/biased/") + file, f / ("dense/" + std::string(file)),
             fs::copy_options::overwrite_existing);
  check_one_line(run(f, "train " + (f / "dense") + " --data " + kDir +
                            "/rows.jsonl --method pesc --out " + (f / "x")),
                 1, {"no adapters", "craft", "full, lora"});
}

TEST_CASE("pesc: a float16 model is crafted, trained, merged and read from a run's checkpoint") {
  if (binary() == nullptr) return;
  Folder f;
  fs::create_directories(f / "dense");
  const std::string tied = "tests/goldens/llama/tied/";
  NamedTensors half;
  const Checkpoint from = Checkpoint::open(tied + "model.safetensors");
  for (const std::string& n : from.names()) half.emplace_back(n, cast(from.get(n), DType::F16));
  save_safetensors(f / "dense/model.safetensors", half);
  Json config = read_json_file(tied + "config.json");
  config.erase("dtype");
  config["torch_dtype"] = "float16";
  f.file("dense/config.json", config.dump());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    f.file(std::string("dense/") + name, read_file(std::string("recipes/embedded/") + name));
  auto good = [&](const std::string& command) {
    Result r = run(f, command);
    CAPTURE(command);
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
  };
  const std::string data = " --data " + kDir + "/rows.jsonl --threads 2 --quiet ";
  good("craft " + (f / "dense") + " --experts 5 --adapter-dim 12 --quiet --out " + (f / "camel"));
  good("train " + (f / "camel") + data +
       "--method pesc --rank 2 --seq 32 --steps 1 --lr 0.01 --save-every 1 --out " + (f / "run"));
  good("merge " + (f / "camel") + " --adapter " + (f / "run/adapter") + " --out " + (f / "merged"));
  good("eval " + (f / "run/checkpoint-1") + data);
  auto camel = load_model(f / "camel"), merged = load_model(f / "merged");
  int changed = 0;
  for (const Param& p : merged->params.all()) {
    CAPTURE(p.name);
    CHECK(p.value.dtype == DType::F16);
    changed += !same_bits(p.value, camel->params.at(p.name).value);
  }
  CHECK(changed > 10);
  CHECK(read_json_file(f / "camel/config.json")["torch_dtype"] == "float16");
}

TEST_CASE("quantize: ESFT and LoRA with dropout train over a base of 4 bits") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string esft = "tests/goldens/esft_train/",
                    train = "train " + esft + "model --data " + esft +
                            "rows.jsonl --threads 2 --quiet --seq 64 --batch 2 --steps 3 "
                            "--quantize nf4 --out ";
  Result r = run(f, train + (f / "e") + " --method esft --experts " + esft + "expert_cfg.json");
  CAPTURE(r.err);
  CHECK(r.code == 0);
  Result l = run(f, train + (f / "l") + " --method lora --rank 2 --lora-dropout 0.1");
  CAPTURE(l.err);
  CHECK(l.code == 0);
  CHECK(read_json_file(f / "l/adapter/adapter_config.json")["lora_dropout"] == 0.1);
  check_one_line(run(f, train + (f / "x") + " --method full"), 2,
                 {"--quantize", "freezes nothing"});
  check_one_line(run(f, "train " + esft + "model --data " + esft +
                            "rows.jsonl --method lora --adapter-dropout 0.1 --out " + (f / "x")),
                 2, {"--adapter-dropout", "no adapters"});
}
