// Ranks as processes, as a user starts them: mpirun -n R sutor train. The same bits as one rank,
// ranks killed at random moments and the run gone on with, one that hangs, wrong input. Skipped
// where mpirun is not installed. SUTOR_KILLS=50: as many kills (8 else).
#include <doctest/doctest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "io/file.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kTrain =
    "train tests/goldens/esft_train/model --data tests/goldens/esft_train/rows.jsonl --method esft "
    "--experts tests/goldens/esft_train/expert_cfg.json --seq 256 --lr 1e-3 --grad-accum 4 "
    "--threads 1 --quiet ";

bool have_mpi() {
  static const bool have = [] {
    const bool yes = binary() != nullptr &&
                     std::system(
                         "command -v mpirun >/dev/null && \"$SUTOR\" env --json 2>/dev/null "
                         "| grep -q 'Open MPI'") == 0;
    if (!yes) MESSAGE("skipped: no mpirun, or a binary without MPI");
    return yes;
  }();
  return have;
}

// mpirun with what tests need: root, more ranks than cores.
std::string mpirun(int ranks) {
  return fmt::format(
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout -k 1 100 mpirun --quiet "
      "--oversubscribe --bind-to none -n {} ",
      ranks);
}

// A shell command in the background.
pid_t started(const std::string& command) {
  const pid_t pid = fork();
  if (pid == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  return pid;
}

// The losses of a run by step, as printed; a step done twice must have come to the same.
std::map<int64_t, std::string> losses(const std::string& run) {
  std::map<int64_t, std::string> out;
  std::ifstream f(run + "/log.jsonl");
  for (std::string line; std::getline(f, line);) {
    const Json j = parse_json(line, run);
    if (!j.contains("step")) continue;
    auto [at, fresh] = out.emplace(j["step"].get<int64_t>(), j["loss"].dump());
    CHECK(at->second == j["loss"].dump());
  }
  return out;
}

std::string adapter(const std::string& run) {
  return read_file(run + "/adapter/model.safetensors");
}

// Processes below `parent`, of any depth, that are called sutor.
std::vector<pid_t> ranks_of(pid_t parent) {
  std::map<pid_t, std::pair<pid_t, std::string>> all;  // pid -> parent, name
  std::error_code ec;
  for (const auto& e : fs::directory_iterator("/proc", ec)) {
    const std::string name = e.path().filename().string();
    if (name.find_first_not_of("0123456789") != name.npos) continue;
    std::ifstream f(e.path() / "stat");
    std::string text;
    std::getline(f, text);
    const size_t open = text.find('('), close = text.rfind(')');
    if (close == text.npos) continue;
    std::istringstream rest(text.substr(close + 2));
    char state = 0;
    pid_t up = 0;
    rest >> state >> up;
    if (state != 'Z') all[std::stoi(name)] = {up, text.substr(open + 1, close - open - 1)};
  }
  std::vector<pid_t> out;
  for (const auto& [pid, info] : all) {
    pid_t up = pid;
    while (up > 1 && up != parent && all.count(up)) up = all[up].first;
    if (up == parent && info.second == "sutor") out.push_back(pid);
  }
  return out;
}

}  // namespace

TEST_CASE("mpi: processes give the bits of one rank, replicated and with shared experts") {
  if (!have_mpi()) return;
  Folder f;
  CHECK(run(f, kTrain + "--steps 3 --out " + (f / "one")).code == 0);
  const auto want = losses(f / "one");
  CHECK(want.size() == 3);
  struct Case {
    int ranks;
    const char* options;
  };
  for (const Case& c : {Case{2, ""}, {4, "--ep 2"}, {3, "--ep 3"}}) {
    CAPTURE(c.ranks);
    const std::string out = f / fmt::format("r{}{}", c.ranks, std::string(c.options).size());
    Result r =
        run(f, kTrain + fmt::format("--steps 3 --out {} {}", out, c.options), mpirun(c.ranks));
    CAPTURE(r.err);
    CHECK(r.code == 0);
    CHECK(r.out == out + "/adapter\n");  // said once
    CHECK(losses(out) == want);
    CHECK(adapter(out) == adapter(f / "one"));
    CHECK(fs::exists(out + "/placement.json") == (std::string(c.options).size() > 0));
  }
  // Threads of one process.
  const std::string out = f / "threads";
  CHECK(run(f, kTrain + "--steps 3 --ranks-as-threads 4 --ep 2 --out " + out).code == 0);
  CHECK(losses(out) == want);
  CHECK(adapter(out) == adapter(f / "one"));
}

TEST_CASE(
    "mpi: a rank killed at any moment ends the run; the next goes on from the last checkpoint") {
  if (!have_mpi()) return;
  Folder f;
  const std::string steps = "--steps 12 --save-every 1 --keep-checkpoints 3 ";
  CHECK(run(f, kTrain + steps + "--out " + (f / "one")).code == 0);
  const auto want = losses(f / "one");
  const char* asked = std::getenv("SUTOR_KILLS");
  const int kills = asked != nullptr ? std::atoi(asked) : 8;
  uint64_t state = 12345;
  auto draw = [&](uint64_t n) {
    return ((state = state * 6364136223846793005ULL + 1442695040888963407ULL) >> 33) % n;
  };
  int64_t done = 0, runs = 0;
  for (int killed = 0; killed < kills; ++runs) {
    const int ranks = 2 + static_cast<int>(runs % 2) * 2;  // the layout changes too
    const std::string out = f / "run";
    const std::string command =
        fmt::format("exec env {} \"{}\" {} {} --out {} {} {} >{}/.out 2>&1", mpirun(ranks),
                    std::getenv("SUTOR"), kTrain, steps, out, ranks == 4 ? "--ep 2" : "",
                    fs::exists(out + "/run.yaml") && done > 0 ? "--resume" : "", f.path);
    const pid_t pid = started(command);
    // From before the first step to beyond the last.
    std::this_thread::sleep_for(std::chrono::milliseconds(250 + draw(1000) % 900));
    const std::vector<pid_t> alive = ranks_of(pid);
    const bool hit = !alive.empty();
    if (hit) kill(alive[draw(1000) % alive.size()], SIGKILL);
    const auto begin = std::chrono::steady_clock::now();
    int status = 0;
    waitpid(pid, &status, 0);
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
    const std::string said = read_file(f.path + "/.out");
    CAPTURE(said);
    if (hit) {
      ++killed;
    } else {
      CHECK(WEXITSTATUS(status) == 0);
    }
    // What is there loads, is whole, and no step is lost beyond the last checkpoint.
    int64_t newest = 0;
    if (fs::exists(out))
      for (const auto& e : fs::directory_iterator(out))
        if (std::string name = e.path().filename().string(); name.starts_with("checkpoint-")) {
          newest = std::max<int64_t>(newest, std::stoll(name.substr(11)));
          Result r = run(f, "inspect " + e.path().string());
          CAPTURE(r.err);
          CHECK(r.code == 0);
        }
    CHECK(newest >= done);
    done = newest;
    for (const auto& [step, loss] : losses(out)) CHECK(want.at(step) == loss);
    if (fs::exists(out + "/adapter")) {
      CHECK(adapter(out) == adapter(f / "one"));
      fs::remove_all(out);
      done = 0;
    }
  }
  const std::string out = f / "run";
  Result r = run(f, kTrain + steps + "--out " + out + (done > 0 ? " --resume" : ""), mpirun(3));
  CAPTURE(r.err);
  CHECK(r.code == 0);
  CHECK(adapter(out) == adapter(f / "one"));
  CHECK(losses(out) == want);
}

TEST_CASE("mpi: a rank that hangs is named within the timeout, and the run ends with 1") {
  if (!have_mpi()) return;
  Folder f;
  const std::string command =
      fmt::format("exec env {} \"{}\" {} --steps 100000 --comm-timeout 2 --out {} >{}/.out 2>&1",
                  mpirun(3), std::getenv("SUTOR"), kTrain, f / "run", f.path);
  const pid_t pid = started(command);
  for (int i = 0; i < 300 && losses(f / "run").empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::vector<pid_t> ranks = ranks_of(pid);
  CHECK(ranks.size() == 3);
  std::string hung;
  if (!ranks.empty()) {
    const std::string environment = read_file(fmt::format("/proc/{}/environ", ranks.back()));
    const std::string key = "OMPI_COMM_WORLD_RANK=";
    hung = environment.substr(environment.find(key) + key.size(), 1);
    kill(ranks.back(), SIGSTOP);
  }
  int status = 0;
  const auto begin = std::chrono::steady_clock::now();
  waitpid(pid, &status, 0);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
  CHECK(WEXITSTATUS(status) == 1);
  const std::string said = read_file(f.path + "/.out");
  CAPTURE(said);
  CHECK(said.find("no answer from rank " + hung) != said.npos);
  CHECK(said.find("step ") != said.npos);
}

TEST_CASE("mpi: SIGTERM to the ranks ends the run after its step with a checkpoint, exit 0") {
  if (!have_mpi()) return;
  Folder f;
  const std::string command =
      fmt::format("exec env {} \"{}\" {} --steps 100000 --out {} >{}/.out 2>&1", mpirun(2),
                  std::getenv("SUTOR"), kTrain, f / "run", f.path);
  const pid_t pid = started(command);
  for (int i = 0; i < 300 && losses(f / "run").empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::vector<pid_t> ranks = ranks_of(pid);
  if (!ranks.empty()) kill(ranks.back(), SIGTERM);  // one is enough: all hear of it
  int status = 0;
  waitpid(pid, &status, 0);
  const std::string said = read_file(f.path + "/.out");
  CAPTURE(said);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(said.find("--resume goes on from") != said.npos);
}

TEST_CASE("mpi: inference shares the experts: the same answers, scores and losses as one rank") {
  if (!have_mpi()) return;
  Folder f;
  const std::string model = "tests/goldens/esft_train/model";
  const std::string generate =
      "generate " + model + " --prompt User --max-tokens 12 --temperature 0 --quiet";
  const Result alone = run(f, generate), shared = run(f, generate, mpirun(3));
  CHECK(alone.code == 0);
  CHECK(shared.code == 0);
  CHECK(alone.out.size() > 1);
  CHECK(alone.out == shared.out);
  const std::string score =
      "score " + model + " --data tests/goldens/esft_train/rows.jsonl --quiet ";
  CHECK(run(f, score + "--out " + (f / "one.json")).code == 0);
  CHECK(run(f, score + "--out " + (f / "two.json"), mpirun(2)).code == 0);
  CHECK(read_file(f / "one.json") == read_file(f / "two.json"));
  const std::string eval =
      "eval " + model + " --data tests/goldens/esft_train/rows.jsonl --metric loss --quiet --out ";
  CHECK(run(f, eval + (f / "a.json")).code == 0);
  CHECK(run(f, eval + (f / "b.json"), mpirun(2)).code == 0);
  const Json a = parse_json(read_file(f / "a.json"), "a"),
             b = parse_json(read_file(f / "b.json"), "b");
  CHECK(a["score"] == b["score"]);
}

TEST_CASE(
    "mpi: a rank with other options or files than the lead is refused before anything is done") {
  if (!have_mpi()) return;
  Folder f;
  const std::string same = kTrain + "--steps 2 --out " + (f / "run");
  auto two = [&](const std::string& first, const std::string& second) {
    return run(f, same + first + " : -n 1 " + binary() + " " + same + second, mpirun(1));
  };
  struct Case {
    const char *lead, *other, *says;
  };
  for (const Case& c : {Case{" --seed 1", " --seed 2", "--seed\n"},
                        {"", " --ep 2", "--ep\n"},
                        {" --aux-loss 0.1", "", "--aux-loss\n"}}) {
    CAPTURE(c.says);
    const Result r = two(c.lead, c.other);
    CAPTURE(r.err);
    CHECK(r.code == 1);
    CHECK(r.err.find(std::string("rank 1: has other options or files than rank 0: ") + c.says) !=
          r.err.npos);
    CHECK_FALSE(fs::exists(f / "run"));
  }
  CHECK(two("", " --verbose").code == 0);
}

TEST_CASE("mpi: wrong input is said once, in one line") {
  if (!have_mpi()) return;
  Folder f;
  check_one_line(run(f, kTrain + "--out " + (f / "run") + " --ep 3", mpirun(2)), 1,
                 {"--ep 3", "2"});
  check_one_line(run(f, "inspect tests/goldens/esft_train/model", mpirun(2)), 2, {"one rank"});
  check_one_line(run(f, kTrain + "--ep 2 --out " + (f / "run")), 1, {"--ep 2"});
  check_one_line(run(f, kTrain + "--comm-timeout 5 --out " + (f / "run")), 2, {"--comm-timeout"});
  CHECK_FALSE(fs::exists(f / "run"));
}
