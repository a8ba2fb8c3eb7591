// What users get wrong and what machines run out of, through the built binary: each case is one
// line on stderr that names the culprit, exit code 1, and nothing left on disk.
#include <sys/mount.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "io/safetensors_writer.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kGolden = "tests/goldens/esft_train", kModel = kGolden + "/model",
                  kRows = kGolden + "/rows.jsonl", kExperts = kGolden + "/expert_cfg.json";
const std::string kTrain = " --steps 1 --seq 64 --threads 1 --quiet";

std::string replaced(std::string s, const std::string& from, const std::string& to) {
  size_t at = s.find(from);
  REQUIRE(at != std::string::npos);
  return s.replace(at, from.size(), to);
}

// A copy of the golden model that a case may spoil.
std::string model_copy(const Folder& f, const std::string& name) {
  fs::remove_all(f / name);
  fs::copy(kModel, f / name);
  return f / name;
}

// Sixteen ids, as `trace` reads them.
std::string input(const Folder& f) {
  Tensor ids = empty({1, 16}, DType::I64);
  for (int64_t i = 0; i < 16; ++i) ids.as<int64_t>()[i] = i * 50;
  save_safetensors(f / "in.safetensors", {{"input_ids", ids}, {"labels", ids}});
  return f / "in.safetensors";
}

// The command fails with one line that has all the parts, and leaves the folder as it was.
void check_fails(const Folder& f, const std::string& arguments,
                 std::initializer_list<std::string> parts, const std::string& before = "") {
  CAPTURE(arguments);
  std::set<std::string> was = entries(f);
  check_one_line(run(f, arguments, before), 1, parts);
  CHECK(entries(f) == was);
}

}  // namespace

TEST_CASE("robustness: missing, cut and corrupt model files") {
  if (binary() == nullptr) return;
  Folder f;
  std::string weights = read_file(kModel + "/model.safetensors"),
              config = read_file(kModel + "/config.json"),
              tokenizer = read_file(kModel + "/tokenizer.json");
  uint64_t n = 0;
  std::memcpy(&n, weights.data(), 8);
  auto header_length = [&](uint64_t length) {
    std::string s = weights;
    std::memcpy(s.data(), &length, 8);
    return s;
  };
  input(f);
  struct Row {
    std::string file, bytes;  // empty bytes: the file is removed
    std::string expect;
  };
  const std::string st = "model.safetensors", gate = "model.layers.1.mlp.gate.weight";
  std::vector<Row> rows = {
      {st, "", "no model.safetensors"},
      {st, weights.substr(0, 7), "HeaderTooSmall"},
      {st, weights.substr(0, n / 2), "InvalidHeaderLength"},
      {st, weights.substr(0, weights.size() - 100), "MetadataIncompleteBuffer"},
      {st, weights + "x", "MetadataIncompleteBuffer"},
      {st, header_length(~uint64_t{0}), "HeaderTooLarge"},
      {st, header_length(n / 2), "InvalidHeaderDeserialization"},
      {st, replaced(weights, "{\"__metadata__\"", "X\"__metadata__\""), "must start with '{'"},
      {st, replaced(weights, "\"BF16\"", "\"BF17\""), "unknown dtype \"BF17\""},
      {st, replaced(weights, gate, "model.layers.1.mlp.gate.weighs"), gate},
      {st, replaced(weights, "\"shape\":[", "\"shape\":{"), "invalid JSON"},
      {"config.json", "", "config.json"},
      {"config.json", config.substr(0, config.size() / 2), "config.json: invalid JSON"},
      {"config.json", "[]", "must be a JSON object"},
      {"config.json", std::string(100000, '['), "nested deeper"},
      {"config.json", replaced(config, "\"deepseek_v2\"", "\"gpt9\""), "gpt9"},
      {"config.json", replaced(config, "\"silu\"", "\"gelu\""), "gelu"},
      {"config.json", replaced(config, "\"softmax\"", "\"tanh\""), "tanh"},
      {"config.json", replaced(config, "\"greedy\"", "\"lottery\""), "lottery"},
      {"config.json", replaced(config, "\"yarn\"", "\"rope9\""), "rope9"},
      {"config.json", replaced(config, "\"hidden_size\": 72", "\"hidden_size\": \"72\""),
       "hidden_size"},
      {"config.json", replaced(config, "\"hidden_size\": 72", "\"hidden_size\": -72"),
       "hidden_size is -72"},
      {"config.json", replaced(config, "\"hidden_size\": 72", "\"hidden_size\": 1e99"),
       "hidden_size"},
      {"config.json", replaced(config, "\"hidden_size\": 72", "\"hidden_size\": 80"),
       "config.json asks for"},
      {"config.json", replaced(config, "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5"),
       "no tensor model.layers.4."},
      {"config.json", replaced(config, "\"hidden_size\": 72,", ""), "hidden_size"},
      {"config.json", replaced(config, "\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 25"),
       "num_experts_per_tok is 25"},
      {"tokenizer.json", "", "tokenizer"},
      {"tokenizer.json", tokenizer.substr(0, tokenizer.size() / 2), "tokenizer.json"},
      {"tokenizer.json", "[1]", "tokenizer.json"},
      {"tokenizer.json", replaced(tokenizer, "\"BPE\"", "\"Unigram9\""), "Unigram9"},
      {"tokenizer_config.json", "{", "tokenizer_config.json"},
  };
  for (const Row& r : rows) {
    CAPTURE(r.file);
    CAPTURE(r.expect);
    std::string m = model_copy(f, "model");
    fs::remove(m + "/" + r.file);
    if (!r.bytes.empty()) write_file_atomic(m + "/" + r.file, r.bytes);
    check_fails(f, "score " + m + " --data " + kRows + " --out " + (f / "s.json"), {r.expect});
    // Other commands open models the same way; a few rows show it.
    if (r.expect != "gpt9" && r.expect != "HeaderTooLarge" && r.expect != gate) continue;
    check_fails(f, "inspect " + m, {r.expect});
    check_fails(f, "generate " + m + " --prompt a", {r.expect});
    check_fails(f, "trace " + m + " --input " + input(f) + " --out " + (f / "t"), {r.expect});
    check_fails(f,
                "train " + m + " --data " + kRows + " --method full --out " + (f / "run") + kTrain,
                {r.expect});
  }
  check_fails(f, "score " + (f / "none") + " --data " + kRows + " --out " + (f / "s"),
              {f / "none"});
}

TEST_CASE("robustness: expert configurations that do not fit") {
  if (binary() == nullptr) return;
  Folder f;
  std::string good = R"({"experts":{"1":[7]},"shared_experts":false,"non_expert_modules":false})";
  struct Row {
    std::string from, to, expect;
  };
  for (const Row& r : std::vector<Row>{{"[7]", "[24]", "24"},
                                       {"[7]", "[-1]", "-1"},
                                       {"[7]", "[7,7]", "7"},
                                       {"[7]", "[\"7\"]", "experts"},
                                       {"[7]", "7", "experts"},
                                       {"\"1\"", "\"0\"", "0"},
                                       {"\"1\"", "\"4\"", "4"},
                                       {"\"1\"", "\"x\"", "x"},
                                       {"{\"1\":[7]}", "{}", "selects nothing"},
                                       {"\"experts\"", "\"expert\"", "expert"},
                                       {"false", "0", "shared_experts"},
                                       {"}}", "}", "invalid JSON"},
                                       {"{\"1\":[7]}", "[]", "experts"}}) {
    CAPTURE(r.to);
    std::string text =
        r.from == "}}" ? good.substr(0, good.size() - 1) : replaced(good, r.from, r.to);
    std::string cfg = f.file("cfg.json", text);
    check_fails(f,
                "train " + kModel + " --data " + kRows + " --experts " + cfg + " --out " +
                    (f / "run") + kTrain,
                {"cfg.json", r.expect});
  }
}

TEST_CASE("robustness: an adapter of another model") {
  if (binary() == nullptr) return;
  Folder f;
  auto train = [&](const std::string& method, const std::string& options) {
    Result r = run(f, "train " + kModel + " --data " + kRows + " --out " + (f / method) +
                          " --method " + method + options + kTrain);
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    return f / method + "/adapter";
  };
  std::string esft = train("esft", " --experts " + kExperts), lora = train("lora", " --rank 2");
  std::string config = read_file(kModel + "/config.json");
  auto other = [&](const std::string& name, const std::string& from, const std::string& to) {
    std::string c = f.file("config.json", replaced(config, from, to));
    REQUIRE(run(f, "init " + c + " --out " + (f / name)).code == 0);
    fs::copy(kModel + "/tokenizer.json", f / name + "/tokenizer.json");
    return f / name;
  };
  std::string narrow =
                  other("narrow", "\"moe_intermediate_size\": 20", "\"moe_intermediate_size\": 12"),
              few = other("few", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 2");
  for (const std::string& adapter : {esft, lora})
    for (const std::string& model : {narrow, few}) {
      CAPTURE(model);
      std::string why = model == few      ? "made for another one?"
                        : adapter == esft ? "the model's is"
                                          : "do not fit";
      std::string with = model + " --adapter " + adapter;
      check_fails(f, "merge " + with + " --out " + (f / "merged"), {adapter, why});
      check_fails(f, "generate " + with + " --prompt a", {adapter, why});
      check_fails(f, "score " + with + " --data " + kRows + " --out " + (f / "s"), {adapter, why});
    }
  check_fails(f, "merge " + kModel + " --adapter " + (f / "none") + " --out " + (f / "merged"),
              {f / "none"});
  std::string bytes = read_file(esft + "/model.safetensors");
  write_file_atomic(esft + "/model.safetensors", bytes.substr(0, bytes.size() - 1));
  check_fails(f, "merge " + kModel + " --adapter " + esft + " --out " + (f / "merged"),
              {"MetadataIncompleteBuffer"});
  std::string json = read_file(lora + "/adapter_config.json");
  for (auto [from, to] : {std::pair{"\"LORA\"", "\"IA3\""},
                          {"\"LORA\"", "7"},
                          {"\"use_dora\": false", "\"use_dora\": true"},
                          {"\"r\": 2", "\"r\": 0"},
                          {"\"r\": 2", "\"r\": \"2\""},
                          {"\"bias\": \"none\"", "\"bias\": \"some\""}}) {
    write_file_atomic(lora + "/adapter_config.json", replaced(json, from, to));
    check_fails(f, "merge " + kModel + " --adapter " + lora + " --out " + (f / "merged"),
                {"adapter_config.json"});
  }
}

TEST_CASE("robustness: a bad row is named by its line") {
  if (binary() == nullptr) return;
  Folder f;
  std::string good =
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})";
  struct Row {
    std::string row, expect;
  };
  for (const Row& r : std::vector<Row>{
           {"{", "invalid JSON"},
           {"[]", "no JSON object"},
           {"{}", "none of messages"},
           {R"({"messages":[]})", "messages"},
           {R"({"messages":[{"role":"user","content":"a"}]})", "no message of role assistant"},
           {R"({"messages":[{"role":"robot","content":"a"}]})", "robot"},
           {R"({"messages":[{"role":"system","content":"a"},{"role":"assistant","content":"a"}]})",
            "system"},
           {R"({"messages":[{"role":"user"}]})", "content"},
           {R"({"prompt":"a"})", "completion"},
           {R"({"text":1})", "text"},
           {R"({"input_ids":[1,2],"labels":[1]})", "2 input_ids and 1 labels"},
           {R"({"input_ids":[1,99999],"labels":[1,1]})", "99999"},
           {R"({"input_ids":[1,2],"labels":[1,99999]})", "99999"},
           {R"({"input_ids":[-1],"labels":[1]})", "-1"},
           {"{\"text\":\"a\",\"text\":\"b\"}", "duplicate key"}}) {
    CAPTURE(r.row);
    std::string data = f.file("d.jsonl", good + "\n\n" + r.row + "\n" + good + "\n");
    check_fails(f, "score " + kModel + " --format esft --data " + data + " --out " + (f / "s"),
                {"d.jsonl:3: ", r.expect});
    check_fails(f,
                "train " + kModel + " --format esft --method full --data " + data + " --out " +
                    (f / "run") + kTrain,
                {"d.jsonl:3: ", r.expect});
  }
  std::string data = f.file("d.json", "[" + good + ",{}]");
  check_fails(f, "score " + kModel + " --format esft --data " + data + " --out " + (f / "s"),
              {"d.json: row 2"});
  check_fails(f, "score " + kModel + " --data " + (f / "none") + " --out " + (f / "s"),
              {f / "none"});
  check_fails(f, "score " + kModel + " --data " + f.file("e.jsonl", "") + " --out " + (f / "s"),
              {"e.jsonl"});
}

namespace {

// Every command that writes, each told to write to `out`.
std::vector<std::string> writers(const Folder& f, const std::string& out) {
  std::string with = kModel + " --adapter " + (f / "esft/adapter");
  return {
      "score " + kModel + " --data " + kRows + " --tokens 64 --seq 64 --out " + out,
      "score " + kModel + " --data " + kRows + " --tokens 64 --seq 64 --raw-dir " + out +
          " --out " + (f / "s.json"),
      "select " + kGolden + "/scores.json --out " + out,
      "train " + kModel + " --data " + kRows + " --experts " + kExperts + " --out " + out + kTrain,
      "merge " + with + " --out " + out,
      "trace " + kModel + " --grads --input " + (f / "in.safetensors") + " --out " + out,
      "init " + kModel + " --out " + out,
      "report " + (f / "esft") + " --out " + out,
      "demo-data --rows 20 --eval-rows 5 --pretrain-rows 400 --out " + out};
}

void train_adapter(const Folder& f) {
  input(f);
  Result r = run(f, "train " + kModel + " --data " + kRows + " --experts " + kExperts + " --out " +
                        (f / "esft") + kTrain);
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
}

}  // namespace

TEST_CASE("robustness: outputs that cannot be written") {
  if (binary() == nullptr) return;
  Folder f;
  train_adapter(f);
  std::string file = f.file("file", "x");
  for (const std::string& out : {file + "/below", f / "no/such/folder/x",
                                 std::string("/proc/sutor"), std::string("/sys/sutor")})
    for (const std::string& command : writers(f, out)) {
      // train makes missing parents.
      if (command.starts_with("train") && out == f / "no/such/folder/x") continue;
      check_fails(f, command, {out});
    }
  // What stands at --out is replaced only when it was made by the same command.
  fs::create_directory(f / "home");
  f.file("home/precious", "x");
  for (const std::string& command : writers(f, f / "home")) check_fails(f, command, {f / "home"});
}

TEST_CASE("robustness: a limit on file size, and a full disk") {
  if (binary() == nullptr) return;
  Folder f;
  train_adapter(f);
  // A file size limit of one block (512 bytes or 1 KiB) stops every output but the smallest; the
  // captured stderr is smaller.
  for (const std::string& command : writers(f, f / "out")) {
    if (command.starts_with("select")) continue;
    CAPTURE(command);
    std::set<std::string> was = entries(f);
    Result r = run(f, command, "ulimit -f 1;");
    check_one_line(r, 1, {"File too large"});
    CHECK(entries(f) == was);
  }
  std::string disk = f / "disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k") != 0) {
    MESSAGE("no full disk tried: mounting is not allowed here");
    return;
  }
  struct Unmount {
    std::string path;
    ~Unmount() { umount2(path.c_str(), MNT_DETACH); }
  } unmount{disk};
  {
    std::ofstream fill(disk + "/fill");
    fill << std::string(64 << 10, 'x');
  }
  for (const std::string& command : writers(f, disk + "/out"))
    check_fails(f, command, {"No space"});
  // With some room the run starts, and its result does not fit: the run folder stays, whole.
  fs::resize_file(disk + "/fill", 40 << 10);
  std::string command =
      "train " + kModel + " --data " + kRows + " --method full --out " + disk + "/out" + kTrain;
  check_one_line(run(f, command), 1, {"No space"});
  for (const std::string& e : entries(f)) CHECK(e.find(".sutor-") == std::string::npos);
  CHECK(fs::exists(disk + "/out/run.yaml"));
  CHECK_FALSE(fs::exists(disk + "/out/model"));
}

TEST_CASE("robustness: streams that cannot be written") {
  if (binary() == nullptr || !fs::exists("/dev/full")) return;
  Folder f;
  train_adapter(f);
  std::vector<std::string> commands = writers(f, f / "out");
  std::erase_if(commands, [](const std::string& c) {  // these print nothing
    return c.starts_with("trace") || c.starts_with("init") || c.starts_with("report");
  });
  for (std::string c : {"--help", "--version", "score --help", "select s --dump-config", "env",
                        "env --json", "inspect tests/goldens/esft_train/model",
                        "generate tests/goldens/esft_train/model --prompt a --max-tokens 2"})
    commands.push_back(c);
  for (const std::string& c : commands) {
    CAPTURE(c);
    fs::remove_all(f / "out");
    fs::remove_all(f / "s.json");
    Result r = run(f, c + " >/dev/full");
    check_one_line(r, 1, {"standard output", "No space left on device"});
    for (const std::string& e : entries(f)) CHECK(e.find(".sutor-") == std::string::npos);
  }
  // Messages are not worth a run: a full stderr changes nothing but what is read there.
  fs::remove_all(f / "out");
  std::string train = "train " + kModel + " --data " + kRows + " --experts " + kExperts +
                      " --steps 1 --seq 64 --threads 1 --verbose --out " + (f / "out");
  CHECK(run(f, train + " 2>/dev/full").code == 0);
  CHECK(run(f, "score " + (f / "none") + " --data d --out o 2>/dev/full").code == 1);
  CHECK(run(f, "fly 2>/dev/full").code == 2);
}

TEST_CASE("robustness: keys nobody knows and options without effect stop a run before it starts") {
  if (binary() == nullptr) return;
  Folder f;
  std::string run_options = "train " + kModel + " --data " + kRows + " --experts " + kExperts +
                            " --out " + (f / "run") + kTrain;
  check_fails(f, run_options + " --config " + f.file("c.yaml", "learning-rate: 1\n"),
              {"c.yaml:1:1", "learning-rate: unknown key"});
  for (const char* option :
       {"--rank 4", "--alpha 3", "--eval-every 5", "--format esft", "--keep-checkpoints 2"}) {
    CAPTURE(option);
    std::set<std::string> was = entries(f);
    check_one_line(run(f, run_options + " " + option), 2, {"has no effect here"});
    CHECK(entries(f) == was);
  }
  check_fails(f, run_options + " --resume", {"no checkpoint to resume"});
}
