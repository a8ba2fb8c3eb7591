// The command line from outside: exit codes, one line per error, --help of every command,
// configuration files. Runs the binary named by the environment variable SUTOR.
#include <doctest/doctest.h>

#include <sstream>

#include "apps/commands.h"
#include "apps/table.h"
#include "io/safetensors_writer.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

TEST_CASE("cli: help, version, unknown commands") {
  if (binary() == nullptr) return;
  Folder f;
  Result help = run(f, "--help");
  CHECK(help.code == 0);
  for (const Command* c : commands()) {
    CAPTURE(c->name);
    CHECK(help.out.find(std::string("  ") + c->name) != std::string::npos);
    Result r = run(f, std::string(c->name) + " --help");
    CHECK(r.code == 0);
    CHECK(r.err.empty());
    size_t example = r.out.find("\nExample:\n");
    CHECK(example != std::string::npos);
    CHECK(r.out.find(std::string("sutor ") + c->name, example) != std::string::npos);
    check_one_line(run(f, std::string(c->name) + " --no-such-option"), 2, {"--no-such-option"});
    // The example names only options that exist.
    std::istringstream words(c->example);
    for (std::string w; words >> w;)
      if (w.starts_with("--")) CHECK(r.out.find("  " + w + " ") != std::string::npos);
  }
  // A default that config.json gives is said to be that.
  const std::string train = run(f, "train --help").out;
  for (const char* option : {"--aux-loss", "--adapter-dropout"}) {
    const size_t at = train.find(option), end = train.find('\n', at);
    CHECK(train.substr(at, end - at).find("[config.json's") != std::string::npos);
  }
  CHECK(run(f, "--version").out.starts_with("sutor "));
  check_one_line(run(f, "fly"), 2, {"'fly'"});
  CHECK(run(f, "").code == 2);
}

TEST_CASE("cli: wrong values name option, value and what is allowed") {
  if (binary() == nullptr) return;
  Folder f;
  check_one_line(run(f, "select"), 2, {"SCORES is missing"});
  check_one_line(run(f, "select a.json b.json"), 2, {"b.json"});
  check_one_line(run(f, "select a.json --out x --score best"), 2,
                 {"--score", "'best'", "token, gate"});
  check_one_line(run(f, "select a.json --out x --top-p 1.5"), 2, {"--top-p", "'1.5'", "0..1"});
  check_one_line(run(f, "select a.json --out x --top-p nan"), 2, {"--top-p", "'nan'"});
  check_one_line(run(f, "select a.json --out x --random 1x"), 2, {"--random", "'1x'"});
  check_one_line(run(f, "select a.json --out"), 2, {"--out", "needs a value"});
  check_one_line(run(f, "select a.json"), 2, {"--out is missing"});
  check_one_line(run(f, "select " + f.path + "/none.json --out x"), 1, {"none.json"});
  CHECK_FALSE(fs::exists("x"));
}

TEST_CASE("cli: a flag wins over the file, the file over the default") {
  if (binary() == nullptr) return;
  Folder f;
  std::string c = f.file("c.yaml", "score: gate\ntop_p: 0.3  # either spelling\n");
  Result r = run(f, "select s.json --config " + c + " --top-p 0.4 --dump-config");
  CHECK(r.code == 0);
  CHECK(r.out.find("score: gate\n") != std::string::npos);
  CHECK(r.out.find("top-p: 0.4\n") != std::string::npos);
  CHECK(run(f, "select s.json --config " + c + " --dump-config").out.find("top-p: 0.3\n") !=
        std::string::npos);
  // A default that follows another option is dumped as what it will be.
  CHECK(run(f, "select s.json --score gate --dump-config").out.find("top-p: 0.1\n") !=
        std::string::npos);
  CHECK(run(f, "select s.json --dump-config").out.find("top-p: 0.2\n") != std::string::npos);
  check_one_line(run(f, "select s.json --top-p 0.1 --top-p 0.2"), 2, {"--top-p: given twice"});
  // What was dumped can be read, and dumps to itself.
  std::string dumped = f.file("d.yaml", r.out);
  Result again = run(f, "select --config " + dumped + " --dump-config");
  CHECK(again.code == 0);
  CHECK(again.out == r.out);
}

TEST_CASE("cli: bad configuration files") {
  if (binary() == nullptr) return;
  Folder f;
  auto bad = [&](const std::string& text, std::initializer_list<std::string> parts) {
    check_one_line(run(f, "select s.json --out x --config " + f.file("b.yaml", text)), 1, parts);
  };
  bad("score: gate\n  topp: 1\n", {"b.yaml:2:"});
  bad("score: gate\nscores: 1\n", {"b.yaml:2:1", "scores: unknown key", "allowed:", "top-p"});
  bad("config: other.yaml\n", {"config: unknown key"});
  bad("score: gate\nscore: token\n", {"b.yaml:2:1", "given twice"});
  bad("score: best\n", {"b.yaml:1:1", "'best'", "token, gate"});
  bad("top-p: [0.1, 0.2]\n", {"b.yaml:1:1", "single value"});
  bad("top-p: {a: 1}\n", {"single value"});
  bad("[a]: 1\n", {"key must be the name"});
  bad("- score\n", {"must be a map"});
  bad("", {"must be a map"});
  bad(std::string(100000, '['), {"b.yaml:"});
  bad(std::string((1 << 20) + 1, '#'), {"larger than 1 MiB"});
  check_one_line(run(f, "select s.json --out x --config " + f.path + "/none.yaml"), 1,
                 {"none.yaml", "no such file"});
}

TEST_CASE("cli: an option without effect is an error") {
  Args a("x", "", "");
  a.choice("method", "", "esft", {"esft", "lora"});
  a.integer("rank", "", 8, 1, 100);
  std::string words[] = {"--rank", "8"};
  char* argv[] = {words[0].data(), words[1].data()};
  CHECK(a.parse(2, argv));
  CHECK(a.given("rank"));
  CHECK_FALSE(a.given("method"));
  CHECK_THROWS_AS(a.no_effect_unless(false, "rank", "no factors"), UsageError);
  a.no_effect_unless(true, "rank", "");
  a.no_effect_unless(false, "method", "");
}

TEST_CASE("cli: rows of ids are not packed, which --packing may not hide") {
  if (binary() == nullptr) return;
  Folder f;
  f.file("rows.jsonl", R"({"input_ids":[1,2,3,4],"labels":[1,2,3,4]})"
                       "\n");
  const std::string rest = " tests/goldens/esft_train/model --data " + (f / "rows.jsonl") +
                           " --method lora --rank 1 --threads 1 --quiet --packing esft-compat ";
  const std::string out = "--steps 1 --out " + (f / "run");
  for (const std::string& command : {"train" + rest + out, "estimate" + rest})
    check_one_line(run(f, command), 2, {"--packing has no effect here", "input_ids"});
  CHECK_FALSE(std::filesystem::exists(f / "run"));
  // Of several micro-batches it decides how their losses are averaged.
  CHECK(run(f, "train" + rest + "--grad-accum 2 " + out).code == 0);
}

TEST_CASE("cli: env and devices") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f, "env --json");
  CHECK(r.code == 0);
  Json j = parse_json(r.out, "env");
  CHECK(get<int64_t>(j, "cores", "env") >= 1);
  CHECK(get<double>(j, "memory_gib", "env") > 0);
  CHECK(j["libraries"].size() >= 5);
  CHECK(run(f, "env").code == 0);
  // The default device is cuda where it is usable, else cpu.
  std::string device = cuda_unusable_because().empty() ? "cuda" : "cpu";
  CHECK(get<std::string>(j, "device", "env") == device);
  CHECK(run(f, "trace m --dump-config").out.find("device: " + device + "\n") != std::string::npos);
  if (device == "cpu") {
    f.file("config.json", "{}");
    check_one_line(run(f, "train " + f.path + " --data d --out o --device cuda:1"), 1,
                   {"--device cuda:1"});
    check_one_line(run(f, "train " + f.path + " --data d --out o --device gpu"), 2,
                   {"'gpu'", "cpu, cuda, cuda:N"});
  }
}

TEST_CASE("cli: demo-data replaces its own result and nothing else") {
  if (binary() == nullptr) return;
  Folder f;
  std::string out = f.path + "/data",
              options = " --rows 20 --eval-rows 5 --pretrain-rows 40 --json";
  Result first = run(f, "demo-data --out " + out + options);
  CHECK(first.code == 0);
  std::string rows = read_file(out + "/pretrain.jsonl"),
              tokenizer = read_file(out + "/tokenizer.json");
  CHECK(run(f, "demo-data --out " + out + options).out == first.out);
  CHECK(read_file(out + "/pretrain.jsonl") == rows);
  CHECK(read_file(out + "/tokenizer.json") == tokenizer);
  f.file("precious", "x");
  check_one_line(run(f, "demo-data --out " + f.path + options), 1, {"name a new folder"});
  CHECK(fs::exists(f.path + "/precious"));
}

TEST_CASE("cli: tables align") {
  Table t({"name", "n"});
  t.row({"é", "7"});
  t.row({"longer", "1024"});
  CHECK(t.text() == "name       n\né          7\nlonger  1024\n");
  CHECK_THROWS_AS(t.row({"one"}), Error);
}

TEST_CASE("cli: every command's example works, in this order, on the embedded model") {
  if (binary() == nullptr) return;
  Folder f;
  fs::create_directory_symlink(fs::absolute("recipes/embedded"), f / "model-embedded");
  f.file("task.jsonl",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","
         "\"content\":\"ho\"}]}\n");
  fs::copy_file(f / "task.jsonl", f / "test.jsonl");
  fs::copy_file("recipes/embedded/config.json", f / "config.json");
  Tensor ids = empty({1, 9}, DType::I64);
  for (int64_t i = 0; i < 9; ++i) ids.as<int64_t>()[i] = i;
  save_safetensors(f / "in.safetensors", {{"input_ids", ids}, {"labels", ids}});
  // init's example writes model/; the rest reads the embedded model under that name. Its training
  // is as long as the example's default says; demo, demo-data and bench have tests of their own.
  const char* order[] = {"init",  "estimate", "inspect", "score",    "select", "train", "eval",
                         "merge", "generate", "chat",    "tokenize", "report", "trace", "env"};
  std::string sutor = fs::absolute(binary()).parent_path().string();
  for (const char* name : order) {
    const Command* c = nullptr;
    for (const Command* other : commands())
      if (std::string(other->name) == name) c = other;
    REQUIRE(c != nullptr);
    CAPTURE(c->example);
    std::string line = fmt::format("cd {} && export PATH={}:$PATH && {} >.out 2>.err </dev/null",
                                   f.path, sutor, c->example);
    if (c->example[0] == 'e')  // it begins with echo
      line = fmt::format("cd {} && export PATH={}:$PATH && ({}) >.out 2>.err", f.path, sutor,
                         c->example);
    int status = std::system(line.c_str());
    CAPTURE(read_file(f / ".err"));
    CHECK(status == 0);
    if (std::string(name) == "init") {
      fs::remove_all(f / "model");
      fs::rename(f / "model-embedded", f / "model");
    }
  }
}

TEST_CASE("cli: generate: answered rows, and the longest text a model is made for") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string user = "{\"role\":\"user\",\"content\":\"hi\"}",
                    said = ",{\"role\":\"assistant\",\"content\":\"so \"}";
  const std::string asked = f.file("q.jsonl", "{\"messages\":[" + user + "]}\n"),
                    answered = f.file("a.jsonl", "{\"messages\":[" + user + said + "]}\n");
  const std::string generate = "generate recipes/embedded --max-tokens 4 --threads 1 --prompts ";
  auto prompt = [](const Result& r) {
    CAPTURE(r.err);
    CHECK(r.code == 0);
    return parse_json(r.out.substr(0, r.out.find('\n')), "generate")["prompt"].get<std::string>();
  };
  Result anew = run(f, generate + answered);
  CHECK(anew.err.find("last answer of 1 rows left out") != std::string::npos);
  const std::string question = prompt(run(f, generate + asked));
  CHECK(prompt(anew) == question);
  CHECK(prompt(run(f, generate + answered + " --continue")) == question + " so ");
  check_one_line(run(f, generate + asked + " --continue"), 2, {"--continue", "no row"});
  check_one_line(run(f, "generate recipes/embedded --prompt a --continue"), 2, {"--continue"});
  // A model of 12 positions.
  fs::copy("recipes/embedded", f / "m");
  Json config = read_json_file(f / "m/config.json");
  config["max_position_embeddings"] = 12;
  f.file("m/config.json", config.dump());
  const std::string small = "generate " + (f / "m") + " --ignore-eos --threads 1 --json --prompt ";
  Result r = run(f, small + "a --max-tokens 64");
  CAPTURE(r.err);
  CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
  CHECK(r.err.find("max_position_embeddings is 12") != std::string::npos);
  Json j = parse_json(r.out.substr(0, r.out.find('\n')), "generate");
  CHECK(j["prompt_tokens"].get<int64_t>() + j["completion_tokens"].get<int64_t>() == 12);
  CHECK(j["finish_reason"] == "length");
  check_one_line(run(f, small + "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s"), 1,
                 {"max_position_embeddings is 12", "tokens"});
  // Defaults that are none are not shown.
  const std::string help = run(f, "score --help").out;
  CHECK(help.find("[6]") == std::string::npos);
  CHECK(help.find("[64]") == std::string::npos);
}

TEST_CASE("cli: generate: stop texts, several answers, log-probabilities; prompts of both kinds") {
  if (binary() == nullptr) return;
  Folder f;
  std::string generate = "generate recipes/embedded --max-tokens 8 --ignore-eos --threads 1 ";
  auto lines = [](const std::string& text) {
    std::vector<Json> out;
    std::istringstream in(text);
    for (std::string l; std::getline(in, l);) out.push_back(parse_json(l, "generate"));
    return out;
  };
  Json whole = lines(run(f, generate + "--prompt a --json --logprobs 2").out).at(0);
  REQUIRE(whole["logprobs"].size() == 8);
  for (const Json& t : whole["logprobs"]) {
    CHECK(t["top"].size() == 2);
    CHECK(t["id"] == t["top"][0]["id"]);  // greedy
    CHECK(t["logprob"] == t["top"][0]["logprob"]);
    CHECK(t["logprob"].get<double>() <= 0);
  }
  std::string text = whole["text"].get<std::string>();
  size_t at = text.find_first_not_of(" \n", 1);
  if (at != text.npos && std::isalnum(static_cast<unsigned char>(text[at]))) {
    std::string stop = text.substr(at, 1), want = text.substr(0, text.find(stop));
    Json j = lines(run(f, generate + "--prompt a --json --stop " + stop).out).at(0);
    CHECK(j["text"] == want);
    CHECK(j["finish_reason"] == "stop");
    CHECK(run(f, generate + "--prompt a --stop " + stop).out == want + "\n");
  }
  std::string rows = f.file(
      "p.jsonl", "{\"prompt\":\"hello\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
  CHECK(lines(run(f, generate + "--temperature 1 --n 2 --prompts " + rows).out).size() == 4);
  check_one_line(run(f, generate + "--prompt a --n 2"), 2, {"--n", "greedy"});
  check_one_line(run(f, generate + "--prompt a --logprobs 2"), 2, {"--logprobs", "--json"});
  check_one_line(run(f, "tokenize recipes/embedded --chat <" + f.file("m", "{\"messages\":[]}\n")),
                 1, {"line 1", "messages"});
}
