// Every family through the commands as a user has them: init, inspect, score, select, estimate,
// train by each method, generate, merge. Dense models say in one line that they have no experts.
#include "io/safetensors.h"
#include "model/family.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

void must(const Folder& f, const std::string& arguments) {
  Result r = run(f, arguments);
  CAPTURE(arguments);
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
}

Json json_of(const Folder& f, const std::string& arguments) {
  must(f, arguments);
  return parse_json(read_file(f / ".out"), arguments);
}

// A folder to init from: the first golden's config with the embedded model's tokenizer.
std::string config_folder(const Folder& f, const std::string& family) {
  std::string dir = f / "config", golden = "tests/goldens/" + family;
  fs::create_directories(dir);
  std::vector<std::string> models;
  for (const auto& e : fs::directory_iterator(golden))
    if (fs::exists(e.path() / "model.safetensors")) models.push_back(e.path().string());
  std::sort(models.begin(), models.end());
  Json c = read_json_file(models.at(0) + "/config.json");
  c["vocab_size"] = 512;
  c["bos_token_id"] = 510;
  c["eos_token_id"] = 511;
  write_file_atomic(dir + "/config.json", c.dump());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    write_file_atomic(dir + "/" + name, read_file(std::string("recipes/embedded/") + name));
  return dir;
}

}  // namespace

TEST_CASE("families: every command") {
  if (binary() == nullptr) return;
  for (const std::string& family : family_names()) {
    CAPTURE(family);
    Folder f;
    std::string m = f / "model", data = f.file("data.jsonl",
                                               "{\"prompt\":\"2 + 3 =\",\"completion\":\" 5\"}\n"
                                               "{\"prompt\":\"4 + 5 =\",\"completion\":\" 9\"}\n");
    must(f, "init " + config_folder(f, family) + " --out " + m);
    Json shape = json_of(f, "inspect " + m + " --json");
    CHECK(get<std::string>(shape, "model_type", "") == family);
    int64_t total = 0, moe = get<int64_t>(shape, "moe_layers", "");
    for (const auto& [name, n] : shape["groups"].items()) total += n.get<int64_t>();
    CHECK(total == get<int64_t>(shape, "parameters", ""));
    const std::string settings = " --data " + data + " --steps 2 --seq 16 --lr 1e-2 --quiet --out ";
    // It measures the machine first; the dry run itself is tested for all (family_methods.cpp).
    if (family == "llama" || family == "qwen2_moe")
      must(f, "estimate " + m + " --method full --seq 16");
    must(f, "generate " + m + " --prompt abc --max-tokens 3");
    std::string score = "score " + m + " --data " + data + " --seq 16 --quiet --out " + (f / "s");
    std::vector<std::string> methods{"full", "lora"};
    if (moe == 0) {
      check_one_line(run(f, score), 1, {family, "no experts"});
      check_one_line(
          run(f, "train " + m + " --method esft --experts " + (f / "x") + settings + (f / "r")), 1,
          {family, "no experts"});
      CHECK_FALSE(fs::exists(f / "r"));
    } else {
      must(f, score);
      must(f, "select " + (f / "s") + " --top-p 0.3 --out " + (f / "e"));
      methods.push_back("esft --experts " + (f / "e"));
    }
    for (const std::string& method : methods) {
      std::string run_dir = f / "run-" + method.substr(0, 4);
      must(f, "train " + m + " --method " + method + settings + run_dir);
      if (method == "full") continue;
      must(f, "inspect " + run_dir + "/adapter");
      must(f, "merge " + m + " --adapter " + run_dir + "/adapter --out " + run_dir + "/merged");
    }
  }
}
