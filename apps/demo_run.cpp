#include "apps/demo_run.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "apps/self_run.h"
#include "apps/table.h"
#include "engine/parallel.h"
#include "io/file.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

void read_log(const std::string& file, Outcome& o) {
  std::istringstream in(read_file(file));
  std::vector<double> speed;
  for (std::string line; std::getline(in, line);) {
    Json j = parse_json(line, file);
    if (j.contains("trainable_parameters"))
      o.trainable = get<double>(j, "trainable_parameters", file);
    if (!j.contains("step")) continue;
    speed.push_back(get<double>(j, "tokens_per_s", file));
    o.peak_bytes = get<double>(j, "peak_bytes", file);
  }
  check(!speed.empty(), "{}: has no step", file);
  std::nth_element(speed.begin(), speed.begin() + static_cast<int64_t>(speed.size() / 2),
                   speed.end());
  o.tokens_per_s = speed[speed.size() / 2];
}

Json to_json(const Outcome& o) {
  return {{"task", o.task},
          {"method", o.method},
          {"seed", o.seed},
          {"task_score", o.task_score},
          {"general_score", o.general_score},
          {"trainable", o.trainable},
          {"experts_per_layer", o.experts},
          {"stored_bytes", o.stored_bytes},
          {"tokens_per_s", o.tokens_per_s},
          {"seconds", o.seconds},
          {"peak_bytes", o.peak_bytes}};
}

}  // namespace

std::vector<std::string> chosen(const Args& a, const char* option,
                                const std::vector<std::string>& known) {
  if (a.str(option) == "all") return known;
  std::vector<std::string> words;
  std::istringstream in(a.str(option));
  for (std::string word; std::getline(in, word, ',');) {
    check(std::find(known.begin(), known.end(), word) != known.end(),
          "--{}: '{}' is unknown; allowed: {}, all", option, word, fmt::join(known, ", "));
    check(std::find(words.begin(), words.end(), word) == words.end(), "--{}: '{}' is named twice",
          option, word);
    words.push_back(word);
  }
  check(!words.empty(), "--{} must name one or more", option);
  return words;
}

DemoRun::DemoRun(const Args& a) : a_(a), out_(a.str("out")) {
  check(!fs::exists(out_) || fs::is_empty(out_), "{}: is not empty; name another folder with --out",
        out_);
}

void DemoRun::make_folder() const {
  std::error_code ec;
  fs::create_directories(out_, ec);
  check(!ec, "{}: cannot be created: {}", out_, ec.message());
}

double DemoRun::command(std::vector<std::string> words, bool computes) {
  if (computes) {
    if (a_.given("threads"))
      words.insert(words.end(), {"--threads", std::to_string(a_.num("threads"))});
    words.insert(words.end(), {"--dtype", "bf16"});  // everywhere: adapters of the same size
  }
  show(shell_line(words));
  double seconds = 0;
  run_self(words, out_ + "/commands.log", &seconds);
  return seconds;
}

void DemoRun::show(const std::string& line) const {
  if (!a_.on("quiet")) note("[{:5.1f} s] {}\n", watch_.seconds(), line);
}

double DemoRun::evaluate(std::vector<std::string> words, const std::string& rows,
                         const std::string& to) {
  words.insert(words.begin(), "eval");
  words.insert(words.end(),
               {"--data", rows, "--metric", "exact", "--max-tokens", "64", "--out", to});
  command(words);
  return get<double>(read_json_file(to), "score", to);
}

void DemoRun::train(const std::vector<std::string>& words, const std::string& run,
                    const std::string& result, Outcome& o) {
  o.seconds = command(words);
  read_log(run + "/log.jsonl", o);
  for (const auto& file : fs::directory_iterator(result))
    if (file.path().extension() == ".safetensors")
      o.stored_bytes += static_cast<double>(file.file_size());
}

void DemoRun::report(std::vector<std::string> dirs) {
  dirs.insert(dirs.begin(), "report");
  dirs.insert(dirs.end(), {"--out", out_ + "/report.html"});
  command(dirs, false);
}

bool DemoRun::show_outcomes(const std::vector<Outcome>& all) const {
  Json j = Json::array();
  for (const Outcome& o : all) j.push_back(to_json(o));
  write_file_atomic(out_ + "/outcomes.json", j.dump(2) + "\n");
  if (a_.on("json")) {
    print_json(j);
    return false;
  }
  Table table({"task", "method", "task %", "general %", "trainable", "stored MB", "tokens/s"});
  for (const Outcome& o : all)
    table.row({o.task, o.method, fmt::format("{:.1f}", 100 * o.task_score),
               fmt::format("{:.1f}", 100 * o.general_score),
               o.trainable > 0 ? fmt::format("{:.0f}", o.trainable) : "-",
               o.trainable > 0 ? fmt::format("{:.2f}", o.stored_bytes * 1e-6) : "-",
               o.trainable > 0 ? fmt::format("{:.0f}", o.tokens_per_s) : "-"});
  fmt::print("{}\n", table.text());
  return true;
}

}  // namespace sutor
