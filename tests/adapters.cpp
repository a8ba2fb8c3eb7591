// What an adapter folder may not say: each is refused before any weight of the model changes hands.
#include <cstring>
#include <fstream>

#include "apps/run_record.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/checkpoint.h"
#include "model/esft.h"
#include "model/run_state.h"
#include "tests/command.h"
#include "tests/gguf_writer.h"
#include "tests/torch_writer.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kModel = "tests/goldens/esft_train/model";
const std::string kQ = "model.layers.1.self_attn.q_proj", kPeft = "base_model.model.";

std::string error_of(const std::vector<std::string>& adapters) {
  auto model = load_model(kModel);
  Replaced replaced;
  try {
    for (const std::string& dir : adapters) load_adapter(*model, dir, &replaced);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

void check_says(const std::string& error, const std::string& part) {
  CAPTURE(error);
  CAPTURE(part);
  CHECK(error.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("adapters: a LoRA whose rank, type, target or factors are wrong") {
  Folder f;
  auto model = load_model(kModel);
  auto lora = [&](const std::string& module, DType type, int64_t rank, bool a, bool b) {
    Tensor w = model->params.at(module + ".weight").value;
    NamedTensors t;
    if (a) t.emplace_back(kPeft + module + ".lora_A.weight", zeros({rank, w.shape.back()}, type));
    if (b) t.emplace_back(kPeft + module + ".lora_B.weight", zeros({w.dim(0), rank}, type));
    save_safetensors(f / "adapter_model.safetensors", t);
    f.file("adapter_config.json", R"({"peft_type":"LORA","r":2,"lora_alpha":4,"bias":"none"})");
    return error_of({f.path});
  };
  CHECK(lora(kQ, DType::F32, 2, true, true) == "");
  CHECK(lora(kQ, DType::BF16, 2, true, true) == "");
  for (DType t : {DType::I8, DType::I64, DType::F64})
    check_says(lora(kQ, t, 2, true, true), "supported: F32, BF16, F16");
  check_says(lora(kQ, DType::F32, 3, true, true), "r is 2");
  check_says(lora(kQ, DType::F32, 2, true, false), "no lora_B");
  check_says(lora(kQ, DType::F32, 2, false, true), "no lora_A");
  for (const char* module : {"lm_head", "model.layers.1.mlp.gate"})  // folded in
    CHECK(lora(module, DType::F32, 2, true, true) == "");
  for (const char* module : {"model.embed_tokens", "model.norm"})
    check_says(lora(module, DType::F32, 2, true, true), "not implemented");
}

TEST_CASE("adapters: an ESFT adapter with other types, experts, or tensors replaced twice") {
  Folder f;
  auto model = load_model(kModel);
  auto esft = [&](const std::string& name, DType type, const std::string& config) {
    fs::create_directories(f / name);
    NamedTensors t;
    for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
      std::string key = "model.layers.1.mlp.experts.7." + std::string(part) + ".weight";
      t.emplace_back(key, zeros(model->params.at(key).value.shape, type));
    }
    save_safetensors(f / name + "/model.safetensors", t);
    if (!config.empty()) f.file(name + "/expert_cfg.json", config);
    return f / name;
  };
  std::string good = esft("a", DType::F32, R"({"experts":{"1":[7]}})"),
              same = esft("b", DType::BF16, "");
  CHECK(error_of({good}) == "");
  CHECK(error_of({same}) == "");
  check_says(error_of({good, same}), "already replaced by adapter " + good);
  check_says(error_of({esft("c", DType::I64, "")}), "is I64");
  check_says(error_of({esft("d", DType::F32, R"({"experts":{"1":[7,6]}})")}), "experts.6.");
  check_says(error_of({esft("e", DType::F32, R"({"experts":{"2":[7]}})")}), "does not name");
}

TEST_CASE("adapters: the oldest checkpoints go, the newest stay") {
  Folder f;
  for (int step : {5, 10, 9, 100}) {
    fs::create_directories(f / fmt::format("checkpoint-{}", step));
    for (const char* part : {"state.json", "state.safetensors"})
      if (step != 5) f.file(fmt::format("checkpoint-{}/{}", step, part), "{}");
  }
  keep_newest_checkpoints(f.path, 2);
  CHECK(newest_checkpoint(f.path) == f / "checkpoint-100");
  CHECK(fs::exists(f / "checkpoint-10"));
  CHECK_FALSE(fs::exists(f / "checkpoint-9"));
  CHECK(fs::exists(f / "checkpoint-5"));  // no complete one: not ours to judge
}

TEST_CASE("adapters: a run knows its record, and goes on only with the same") {
  if (binary() == nullptr) return;
  Folder f;
  fs::copy(kModel, f / "model");
  std::string rows = "tests/goldens/esft_train/rows.jsonl", lr = " --lr 1e-3";
  auto train = [&](const std::string& more) {
    return run(f, "train " + (f / "model") + "/ --data " + rows +
                      " --method lora --rank 2 --seq 512" +
                      " --threads 1 --quiet --save-every 1 --keep-checkpoints 2 --out " +
                      (f / "run") + more);
  };
  REQUIRE(train(lr + " --steps 3").code == 0);
  CHECK_FALSE(fs::exists(f / "run/checkpoint-1"));
  CHECK(fs::exists(f / "run/checkpoint-2"));
  std::ifstream log(f / "run/log.jsonl");
  std::string first;
  std::getline(log, first);
  Json j = parse_json(first, "log");
  CHECK(j["config"]["rank"] == 2);
  CHECK(j["config"]["method"] == "lora");
  for (const char* hash : {"data_hash", "model_hash", "binary_hash"})
    CHECK(get<std::string>(j, hash, "log").size() == 32);
  std::string base = get<std::string>(read_json_file(f / "run/adapter/adapter_config.json"),
                                      "base_model_name_or_path", "");
  CHECK(base == f / "model");
  // Longer is allowed; another rate, schedule or model is not, and is named.
  check_one_line(train(" --lr 2e-3 --steps 4 --resume"), 1, {"settings: lr"});
  check_one_line(train(lr + " --schedule linear --steps 4 --resume"), 1, {"schedule"});
  CHECK(train(lr + " --steps 4 --resume").code == 0);
  // The newest checkpoint is the model with the adapter.
  auto ids = [&](const std::string& model) {
    Result r = run(f, "generate " + model + " --prompt law --max-tokens 8 --ignore-eos --json" +
                          " --dtype f32 --threads 1");
    CAPTURE(r.err);
    CHECK(r.code == 0);
    return parse_json(r.out.substr(0, r.out.find('\n')), "generate")["ids"];
  };
  CHECK(ids(f / "run/checkpoint-4") == ids(f / "model" + " --adapter " + (f / "run/adapter")));
  check_one_line(run(f, "train " + (f / "run/checkpoint-4") + " --data " + rows +
                            " --method full --out " + (f / "other")),
                 1, {"checkpoint-4", "--resume"});
  std::string with = f / "model" + " --data " + rows + " --adapter " + (f / "run/adapter") +
                     " --seq 512 --steps 1 --out " + (f / "other");
  check_one_line(run(f, "train " + with + " --method full"), 1, {"carries a LoRA", "sutor merge"});
  std::fstream(f / "model/model.safetensors", std::ios::in | std::ios::out | std::ios::binary)
          .seekp(-1, std::ios::end)
      << 'x';
  check_one_line(train(lr + " --steps 5 --resume"), 1, {"settings: model"});
}

TEST_CASE("adapters: ESFT goes on from an adapter only where it keeps all of it") {
  if (binary() == nullptr) return;
  Folder f;
  auto experts = [&](const std::string& name, const std::string& list) {
    return f.file(name, R"({"experts":{"1":[)" + list +
                            R"(]},"shared_experts":false,"non_expert_modules":false})");
  };
  auto train = [&](const std::string& out, const std::string& more) {
    return run(f, "train " + std::string(kModel) +
                      " --data tests/goldens/esft_train/rows.jsonl --seq 512 --steps 1 --threads 1 "
                      "--lr 1e-3 --quiet --out " +
                      (f / out) + more);
  };
  const std::string below = " --adapter " + (f / "a/adapter") + " --experts ";
  REQUIRE(train("a", " --experts " + experts("a.json", "0,1")).code == 0);
  check_one_line(train("b", below + experts("b.json", "1,2")), 1,
                 {"--adapter", "a/adapter", "experts.0.", "merge it first"});
  CHECK_FALSE(fs::exists(f / "b"));
  CHECK(train("c", below + experts("c.json", "0,1,2")).code == 0);
  // An adapter says what it was made on.
  Json config = read_json_file(f / "a/adapter/config.json");
  config["model_type"] = "olmoe";
  std::ofstream(f / "a/adapter/config.json") << config.dump();
  check_one_line(train("d", below + (f / "c.json")), 1,
                 {"made for model_type olmoe", "deepseek_v2"});
}

TEST_CASE("adapters: the record of a run knows every file of weights, of any format") {
  Folder f;
  fs::copy(kModel, f / "model");
  fs::remove(f / "model/model.safetensors");
  NamedTensors tensors;
  Checkpoint files = Checkpoint::open(kModel);
  for (const std::string& name : files.names()) tensors.emplace_back(name, files.get(name));
  Json map = Json::object();
  for (size_t i = 0; i < tensors.size(); ++i) map[tensors[i].first] = i < 3 ? "a" : "b.weights";
  std::string first = torch_of({tensors.begin(), tensors.begin() + 3}),
              second = torch_of({tensors.begin() + 3, tensors.end()});
  auto changes = [](const std::string& path, const std::string& of, const std::string& bytes) {
    write_file_atomic(of, bytes);
    std::string before = hash_weights(path), changed = bytes;
    size_t at = changed.find("PK\x01\x02") - 1;  // the last byte of a tensor
    changed[at] = static_cast<char>(changed[at] ^ 1);
    write_file_atomic(of, changed);
    std::string after = hash_weights(path);
    write_file_atomic(of, bytes);
    return before != after && before == hash_weights(path);
  };
  f.file("model/pytorch_model.bin.index.json", Json{{"weight_map", map}}.dump());
  f.file("model/a", first);
  f.file("model/b.weights", second);
  CHECK(changes(f / "model", f / "model/a", first));
  CHECK(changes(f / "model", f / "model/b.weights", second));
  fs::remove(f / "model/pytorch_model.bin.index.json");
  CHECK(changes(f / "model", f / "model/pytorch_model.bin", first));
  fs::create_directories(f / "lora");
  f.file("lora/adapter_config.json", "{}");
  CHECK(changes(f / "lora", f / "lora/adapter_model.bin", first));
}

TEST_CASE("adapters: a .gguf file trains, and its run goes on only with the same file") {
  if (binary() == nullptr) return;
  Folder f;
  // The golden with a vocabulary put in; a key of the right length keeps the tensors aligned.
  std::string bytes = read_file("tests/goldens/gguf/llama.gguf"), tokens, types, scores;
  for (int i = 0; i < 131; ++i) {
    tokens += gguf_text(fmt::format("t{}", i));
    types += le<int32_t>(i == 0 ? 2 : 1);
    scores += le(0.0f);
  }
  auto list = [](const char* key, uint32_t type, const std::string& values) {
    return gguf_key(key, 9, le(type) + le<uint64_t>(131) + values);
  };
  std::string old = gguf_key("tokenizer.ggml.model", "no_vocab"),
              now = gguf_key("tokenizer.ggml.model", "llama") +
                    list("tokenizer.ggml.tokens", 8, tokens) +
                    list("tokenizer.ggml.token_type", 5, types) +
                    list("tokenizer.ggml.scores", 6, scores);
  size_t fill = gguf_key("x", "").size() + now.size() - old.size();
  now += gguf_key("x", std::string(32 - fill % 32, ' '));
  REQUIRE(bytes.find(old) != bytes.npos);
  bytes.replace(bytes.find(old), old.size(), now);
  uint64_t keys = 0;
  std::memcpy(&keys, bytes.data() + 16, 8);
  bytes.replace(16, 8, le(keys + 4));
  f.file("x.gguf", bytes);
  Json row{{"input_ids", {1, 2, 3, 4}}, {"labels", {1, 2, 3, 4}}};
  f.file("rows.jsonl", row.dump() + "\n");
  auto train = [&](int steps, const char* more) {
    return run(f, fmt::format("train {} --data {} --method full --threads 1 --quiet --save-every 1 "
                              "--out {} --steps {} {}",
                              f / "x.gguf", f / "rows.jsonl", f / "run", steps, more));
  };
  Result r = train(1, "");
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  CHECK(train(2, "--resume").code == 0);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  f.file("x.gguf", bytes);
  check_one_line(train(3, "--resume"), 1, {"settings: model"});
}

TEST_CASE("adapters: init writes the config it read, under its own name") {
  if (binary() == nullptr) return;
  Folder f;
  std::string text = read_file(kModel + "/config.json");
  f.file("big.json", text);
  f.file("config.json", "{}");  // stands beside it and is another one
  REQUIRE(run(f, "init " + (f / "big.json") + " --out " + (f / "m")).code == 0);
  CHECK(read_json_file(f / "m/config.json") == read_json_file(f / "big.json"));
  f.file("config.json", text);
  std::string absolute = fs::absolute(binary()).string();
  REQUIRE(std::system(
              fmt::format("cd {} && {} init config.json --out m2", f.path, absolute).c_str()) == 0);
  CHECK(read_file(f / "m2/config.json") == text);
}
