// The user's way: sutor demo from the binary alone, and the README's four commands, on the embedded
// model with very few steps.
#include <sstream>

#include "apps/demo_results.h"
#include "io/safetensors.h"
#include "model/embedded.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

TEST_CASE("demo: artefacts, table and report of every method") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f, "demo --out " + (f / "demo") + " --tasks law --steps 1 --eval-rows 8 --json");
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  Json rows = Json::parse(r.out);
  REQUIRE(rows.size() == 6);
  CHECK(rows[0]["method"] == "vanilla");
  CHECK(rows[0]["general_score"].get<double>() > 0.5);
  for (const Json& row : rows)
    if (row["method"] == "random") CHECK(row["trainable"] == rows[3]["trainable"]);
  for (const char* file :
       {"model/model.safetensors", "data/train/law.jsonl", "scores/intent/scores.json",
        "law/results.json", "law/full/run/model/model.safetensors",
        "law/lora/run/adapter/adapter_model.safetensors",
        "law/esft-token/run/adapter/expert_cfg.json", "law/esft-gate/run/log.jsonl",
        "law/random/eval_general.json", "report.html", "outcomes.json"}) {
    CAPTURE(file);
    CHECK(fs::exists(f / ("demo/" + std::string(file))));
  }
  CHECK(read_file(f / "demo/report.html").find("<svg") != std::string::npos);
  check_one_line(run(f, "demo --out " + (f / "demo")), 1, {"not empty"});
  const std::string law = f / "demo/law";
  for (const char* run_of :
       {"esft-token", "lora"}) {  // what an adapter trains, and what it trained
    Result i = run(f, "inspect --json " + law + "/" + run_of + "/run/adapter");
    CHECK(i.code == 0);
    double trained = rows[run_of == std::string("lora") ? 2 : 3]["trainable"].get<double>();
    CHECK(Json::parse(i.out)["parameters"].get<double>() == trained);
  }
  Result whole = run(f, "inspect --json " + (f / "demo/model"));
  CHECK(Json::parse(whole.out)["tokenizer"]["chat_template"] == true);
  // A run that ended before it left a result does not block its folder.
  fs::remove_all(law + "/esft-token/run/adapter");
  Result again =
      run(f, "train " + (f / "demo/model") + " --data " + (f / "demo/data/train/law.jsonl") +
                 " --experts " + law + "/esft-token/expert_cfg.json --steps 1 --seq 64" +
                 " --quiet --out " + law + "/esft-token/run");
  CAPTURE(again.err);
  CHECK(again.code == 0);
  // Rows without question and answer are counted when asked for.
  std::string mixed = f.file(
      "mixed.jsonl", read_file(f / "demo/data/eval/law.jsonl") + "{\"text\":\"no question\"}\n");
  CHECK(run(f, "eval " + (f / "demo/model") + " --metric exact --data " + mixed).code == 1);
  Result skips =
      run(f, "eval " + (f / "demo/model") + " --metric exact --skip-bad-rows --data " + mixed);
  CHECK(skips.code == 0);
  CHECK(skips.err.find("1 rows") != std::string::npos);
}

TEST_CASE("demo --method pesc: artefacts, equal numbers of trained parameters, load, report") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f, "demo --method pesc --out " + (f / "demo") + " --markdown " + (f / "m.md") +
                        " --tasks law --steps 2 --eval-rows 10 --json");
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  Json rows = Json::parse(r.out);
  REQUIRE(rows.size() == 4);
  CHECK(rows[0]["method"] == "vanilla");
  CHECK(rows[0]["general_score"].get<double>() > 0.5);
  const double lora = rows[1]["trainable"], pesc = rows[2]["trainable"];
  CHECK(std::abs(lora / pesc - 1) < 0.02);
  CHECK(rows[3]["trainable"] == pesc);
  for (const char* file :
       {"dense/model.safetensors", "crafted/config.json", "data/mixture.jsonl",
        "mixture/lora/run/adapter/adapter_model.safetensors",
        "mixture/pesc/run/adapter/moe_model.safetensors", "mixture/pesc-balanced/eval_law.json",
        "scores/pesc/law/scores.json", "mixture/results.json", "outcomes.json"}) {
    CAPTURE(file);
    CHECK(fs::exists(f / ("demo/" + std::string(file))));
  }
  // Without the balance loss it is in the log all the same.
  CHECK(read_file(f / "demo/mixture/pesc/run/log.jsonl").find("aux_loss") != std::string::npos);
  const std::string page = read_file(f / "demo/report.html"), tables = read_file(f / "m.md");
  for (const char* part : {"Balance loss", "Layer 2: which experts the tokens take"})
    CHECK_MESSAGE(page.find(part) != std::string::npos, part);
  for (const char* part : {"| method | law | general |", "| pesc-balanced | load_cv |",
                           "| pesc | law | ", "Frozen weights: bf16", "all layers together"})
    CHECK_MESSAGE(tables.find(part) != std::string::npos, part);
  auto before = entries(f);
  const std::string out = "demo --out " + (f / "d");
  check_one_line(run(f, out + " --quantize nf4"), 2, {"--quantize", "--method pesc"});
  check_one_line(run(f, out + " --method pesc --methods lora --aux-loss 1"), 2,
                 {"--aux-loss", "pesc-balanced"});
  check_one_line(run(f, out + " --method pesc --methods full"), 1, {"full", "pesc-balanced"});
  CHECK(entries(f) == before);
}

TEST_CASE("demo: unknown tasks and methods are named") {
  if (binary() == nullptr) return;
  Folder f;
  auto before = entries(f);
  check_one_line(run(f, "demo --out " + (f / "d") + " --tasks poems"), 1, {"poems", "intent"});
  check_one_line(run(f, "demo --out " + (f / "d") + " --methods dora"), 1, {"dora", "esft-gate"});
  CHECK(entries(f) == before);
}

TEST_CASE("demo: results are means and deviations over seeds") {
  std::vector<Outcome> all;
  for (int seed : {1, 2})
    for (const char* task : {"a", "b"}) {
      Outcome o{task, "full", seed};
      o.task_score = seed == 1 ? 0.5 : 0.7;
      o.trainable = 10;
      all.push_back(o);
    }
  CHECK(spread({1, 3}).sd == doctest::Approx(std::sqrt(2.0)));
  CHECK(result_rows(all, "a")["rows"][0]["task"].get<double>() == doctest::Approx(0.6));
  CHECK(results_markdown(all, {"x"}).find("| full | 60.0 ± 14.1 | 60.0 ± 14.1 | 60.0 ± 14.1 |") !=
        std::string::npos);
}

TEST_CASE("demo: phases of a run are means of its first, middle and last tenth") {
  Balance b{"pesc", 1, {}, {}};
  for (int step = 1; step <= 20; ++step) b.load_cv[step] = step, b.aux[step] = 2 * step;
  auto p = phases(b);
  CHECK(p[0].load_cv == 1.5);
  CHECK(p[1].from == 10);
  CHECK(p[2].to == 20);
  CHECK(p[2].aux == 39);
}

TEST_CASE("README: the four commands, in order, as printed") {
  if (binary() == nullptr) return;
  Folder f;
  write_embedded_model(f / "MODEL");
  Result data = run(f, "demo-data --pretrain-rows 1 --rows 40 --eval-rows 8 --out " + (f / "d"));
  REQUIRE(data.code == 0);
  setenv("SUTOR", fs::absolute(binary()).c_str(), 1);  // the commands run in their own folder
  fs::copy(f / "d/train/law.jsonl", f / "task.jsonl");
  std::istringstream readme(read_file("README.md"));
  int commands = 0;
  for (std::string line; std::getline(readme, line);) {
    if (!line.starts_with("sutor score ") && !line.starts_with("sutor select ") &&
        !line.starts_with("sutor train ") && !line.starts_with("sutor merge "))
      continue;
    std::string here = line.substr(6);
    if (size_t at = here.find("--steps 100"); at != here.npos) here.replace(at, 11, "--steps 1");
    Result r = run(f, here, "cd " + f.path + " &&");
    CAPTURE(line);
    CAPTURE(r.err);
    CHECK(r.code == 0);
    ++commands;
  }
  CHECK(commands == 4);
  CHECK(Checkpoint::open(f / "merged").names().size() ==
        Checkpoint::open(f / "MODEL").names().size());
}
