// When a run saves, what it keeps, and what it does when it cannot: through the command.
#include <doctest/doctest.h>

#include <fstream>
#include <set>

#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kTrain =
    "train tests/goldens/esft_train/model --data tests/goldens/esft_train/rows.jsonl --method esft "
    "--experts tests/goldens/esft_train/expert_cfg.json --seq 256 --lr 1e-3 --threads 1 --quiet ";

std::set<std::string> checkpoints(const std::string& run) {
  std::set<std::string> out;
  for (const auto& e : fs::directory_iterator(run))
    if (std::string name = e.path().filename().string(); name.starts_with("checkpoint-"))
      out.insert(name);
  return out;
}

}  // namespace

TEST_CASE("saving: the newest, and the best by eval_loss beside them") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string eval = " --eval-data tests/goldens/esft_train/rows.jsonl --eval-every 1 ";
  // A rate at which the loss goes up: an early checkpoint stays the best.
  Result r = run(
      f,
      "train tests/goldens/esft_train/model --data tests/goldens/esft_train/rows.jsonl --method "
      "esft --experts tests/goldens/esft_train/expert_cfg.json --seq 256 --threads 1 --quiet "
      "--steps 5 --save-every 1 --keep-checkpoints 2 --keep-best --lr 0.3" +
          eval + "--out " + (f / "run"));
  CAPTURE(r.err);
  CHECK(r.code == 0);
  double lowest = 1e9;
  int64_t best = 0;
  std::ifstream log(f / "run/log.jsonl");
  for (std::string line; std::getline(log, line);) {
    const Json j = parse_json(line, "log");
    if (!j.contains("eval_loss") || j["eval_loss"].get<double>() >= lowest) continue;
    lowest = j["eval_loss"].get<double>();
    best = j["step"].get<int64_t>();
  }
  const std::set<std::string> kept = checkpoints(f / "run");
  CHECK(kept.size() == 3);
  CHECK(kept.count(fmt::format("checkpoint-{}", best)) == 1);
  check_one_line(run(f, kTrain + "--keep-best --save-every 1 --out " + (f / "x")), 2,
                 {"--keep-best", "--keep-checkpoints"});
}

TEST_CASE("saving: by time, on one rank and on several") {
  if (binary() == nullptr) return;
  for (const char* ranks : {"", "--ranks-as-threads 3 "}) {
    Folder f;
    Result r = run(f, kTrain + ranks + "--steps 4 --save-minutes 0.000001 --out " + (f / "run"));
    CAPTURE(r.err);
    CHECK(r.code == 0);
    CHECK(checkpoints(f / "run").size() == 4);
  }
}

TEST_CASE("saving: a checkpoint that finds no room is said, the run goes on, the last one stays") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string train = kTrain + "--save-every 1 --out " + (f / "run");
  CHECK(run(f, train + " --steps 1").code == 0);
  fs::remove_all(f / "run/adapter");
  // No file larger than this from now on: the state is.
  Result r = run(f, train + " --steps 3 --resume", "ulimit -f 64;");
  CAPTURE(r.err);
  CHECK(r.err.find("checkpoint-2: not written") != r.err.npos);
  CHECK(r.err.find("the last one is " + (f / "run/checkpoint-1") + "; going on") != r.err.npos);
  CHECK(r.err.find("checkpoint-3: not written") != r.err.npos);
  CHECK(checkpoints(f / "run") == std::set<std::string>{"checkpoint-1"});
  for (const auto& e : fs::directory_iterator(f / "run"))
    CHECK_FALSE(e.path().filename().string().starts_with(".sutor"));
  CHECK(run(f, train + " --steps 2 --resume").code == 0);
}

TEST_CASE("saving: a damaged checkpoint is found by its checksums") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string out = f / "run";
  CHECK(run(f, kTrain + "--steps 2 --save-every 2 --ranks-as-threads 2 --grad-accum 2 --out " + out)
            .code == 0);
  const std::string part = out + "/checkpoint-2/state-00002-of-00002.safetensors";
  std::string bytes = read_file(part);
  CHECK(run(f, "inspect " + out + "/checkpoint-2").out.find("checksums right") !=
        std::string::npos);
  bytes[bytes.size() - 100] ^= 1;
  write_file_atomic(part, bytes);
  check_one_line(run(f, "inspect " + out + "/checkpoint-2"), 1, {part, "is damaged"});
  check_one_line(run(f, kTrain + "--steps 3 --grad-accum 2 --resume --out " + out), 1,
                 {part, "is damaged"});
  fs::remove(part);  // and one that lacks a file is none
  check_one_line(run(f, kTrain + "--steps 3 --grad-accum 2 --resume --out " + out), 1,
                 {"no checkpoint", "not whole"});
}
