// Signals to a training run: the first one ends it after its step, with a checkpoint to go on from;
// a second one at once.
#include <doctest/doctest.h>

#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

// Starts a run in the background, waits until `line` stands in its log, sends the signals a tenth
// of a second apart, and waits for its end. As a shell starts it, SIGINT is ignored at first.
Result interrupted(const Folder& f, const std::string& options, const std::string& line,
                   const std::string& signals) {
  const std::string script = fmt::format(
      "\"$SUTOR\" train tests/goldens/esft_train/model --data tests/goldens/esft_train/rows.jsonl "
      "--method lora --rank 2 --seq 512 --threads 1 --quiet --out {0}/run {1} & pid=$!\n"
      "n=0; while [ $n -lt 600 ] && ! grep -q '{2}' {0}/run/log.jsonl 2>/dev/null; do sleep 0.05; "
      "n=$((n+1)); done\n"
      "for s in {3}; do kill -$s $pid; sleep 0.1; done; wait $pid",
      f.path, options, line, signals);
  const std::string file = f.file("script", script);
  const int status =
      std::system(fmt::format("sh {} >{}/.out 2>{}/.err </dev/null", file, f.path, f.path).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(f.path + "/.out"),
          read_file(f.path + "/.err")};
}

}  // namespace

TEST_CASE("signals: a run that is told to stop can be gone on with; told twice, it ends at once") {
  if (binary() == nullptr) return;
  for (const char* signal : {"INT", "TERM"}) {
    CAPTURE(signal);
    Folder f;
    Result r = interrupted(f, "--steps 1000000", "\"step\":2,", signal);
    CAPTURE(r.err);
    CHECK(r.code == (signal == std::string("INT") ? 128 + SIGINT : 0));
    CHECK(r.out.empty());
    CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
    CHECK(r.err.find("--resume goes on from " + (f / "run/checkpoint-")) != std::string::npos);
    int checkpoints = 0;
    int64_t step = 0;
    for (const auto& e : fs::directory_iterator(f / "run"))
      if (std::string name = e.path().filename().string(); name.starts_with("checkpoint-"))
        ++checkpoints, step = std::stoll(name.substr(11));
    CHECK(checkpoints == 1);
    CHECK(r.err.find(fmt::format("after step {} of", step)) != std::string::npos);
    CHECK_FALSE(fs::exists(f / "run/adapter"));
    Result on = run(f, fmt::format("train tests/goldens/esft_train/model --data "
                                   "tests/goldens/esft_train/rows.jsonl --method lora --rank 2 "
                                   "--seq 512 --threads 1 --quiet --out {} --steps {} --resume",
                                   f / "run", step + 1));
    CAPTURE(on.err);
    CHECK(on.code == 0);
    CHECK(fs::exists(f / "run/adapter"));
  }
  Folder f;  // a step of minutes
  Result r = interrupted(f, "--steps 2 --batch 64 --grad-accum 64", "\"config\"", "TERM TERM");
  CHECK(r.code == 128 + SIGTERM);
  CHECK_FALSE(fs::exists(f / "run/checkpoint-1"));
}
