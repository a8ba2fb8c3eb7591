#include "model/report_data.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "io/file.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

TrainLog read_log(const std::string& path) {
  TrainLog log;
  std::string bytes = read_file(path);
  std::string_view rest = bytes;
  for (int line = 1; !rest.empty(); ++line) {
    size_t eol = rest.find('\n');
    std::string_view row = rest.substr(0, eol);
    rest = eol == std::string_view::npos ? std::string_view{} : rest.substr(eol + 1);
    if (eol == std::string_view::npos && !Json::accept(row)) {
      log.note = "the last line of its log is cut off";  // a run that was killed while it wrote
      break;
    }
    if (row.empty()) continue;
    std::string where = fmt::format("{}:{}", path, line);
    Json j = parse_json(row, where);
    check(j.is_object(), "{}: expected an object, found {}", where, j.type_name());
    if (!j.contains("step")) continue;  // the configuration
    int64_t step = get<int64_t>(j, "step", where);
    // A loss that was not finite is written as null.
    if (j.contains("loss")) log.loss[step] = get_or<double>(j, "loss", kNoValue, where);
    if (j.contains("aux_loss")) log.aux[step] = get_or<double>(j, "aux_loss", kNoValue, where);
    if (j.contains("load_cv")) {
      const Json& layers = j["load_cv"];
      check(layers.is_array() && !layers.empty() &&
                std::all_of(layers.begin(), layers.end(),
                            [](const Json& v) { return v.is_number(); }),
            "{}: load_cv is no list of numbers", where);
      double sum = 0;
      for (const Json& v : layers) sum += v.get<double>();
      log.load_cv[step] = sum / static_cast<double>(layers.size());
    }
    if (j.contains("eval_loss")) log.eval[step] = get_or<double>(j, "eval_loss", kNoValue, where);
  }
  return log;
}

Json read_results(const std::string& path) {
  Json j = read_json_file(path);
  check(j.is_object() && j.contains("rows") && j["rows"].is_array(), "{}: has no list \"rows\"",
        path);
  int i = 0;
  for (const Json& row : j["rows"]) {
    std::string where = fmt::format("{}: rows[{}]", path, i++);
    get<std::string>(row, "method", where);
    for (const auto& [key, v] : row.items())
      check(v.is_string() || v.is_null() || v.is_boolean() || (v.is_number() && key != "method"),
            "{}: key \"{}\" must be text or a number, found {}", where, key, v.type_name());
    for (const char* key : {"task", "general", "trainable", "stored_bytes", "tokens_per_s"})
      get_or<double>(row, key, kNoValue, where);
  }
  return j["rows"];
}

// A rate that a machine may have: the axes are drawn decade by decade.
bool believable(double v) { return v > 1e-9 && v < 1e12; }

// What `sutor bench kernels --json` prints.
Roofline read_roofline(const std::string& path) {
  const Json j = read_json_file(path);
  check(j.is_object() && j.contains("rows") && j["rows"].is_array(), "{}: has no list \"rows\"",
        path);
  Roofline r;
  const std::string kernels = get<std::string>(j, "kernels", path),
                    dtype = get<std::string>(j, "dtype", path);
  r.title = fmt::format("Kernels under the roof: {}, {}, {} threads", kernels, dtype,
                        get<int64_t>(j, "threads", path));
  r.peak_gflops = get<double>(j, dtype + "_gflops", path);
  r.read_gbps = get<double>(j, "read_gbps", path);
  int i = 0;
  for (const Json& row : j["rows"]) {
    const std::string where = fmt::format("{}: rows[{}]", path, i++);
    const double gflops = get<double>(row, "gflops", where), gbps = get<double>(row, "gbps", where);
    check(believable(gflops) && believable(gbps), "{}: {} GFLOP/s and {} GB/s", where, gflops,
          gbps);
    r.points.push_back({get<std::string>(row, "kernel", where),
                        fmt::format("{}, {} tokens", get<std::string>(row, "shape", where),
                                    get<int64_t>(row, "tokens", where)),
                        gflops / gbps, gflops});
  }
  check(!r.points.empty(), "{}: holds no measurement", path);
  check(believable(r.peak_gflops) && believable(r.read_gbps),
        "{}: peaks of {} GFLOP/s and {} GB/s", path, r.peak_gflops, r.read_gbps);
  return r;
}

}  // namespace

ReportRun read_report_run(const std::string& dir) {
  check(fs::is_directory(dir), "{}: no such folder", dir);
  ReportRun r;
  auto find = [&](const char* name) {
    for (std::string p : {dir + "/" + name, dir + "/adapter/" + name})
      if (fs::is_regular_file(p)) return p;
    return std::string();
  };
  if (auto p = find("log.jsonl"); !p.empty()) r.log = read_log(p);
  if (auto p = find("scores.json"); !p.empty()) r.scores = read_scores(p);
  if (auto p = find("expert_cfg.json"); !p.empty()) r.experts = read_expert_config(p);
  if (auto p = find("results.json"); !p.empty()) r.results = read_results(p);
  if (auto p = find("run.yaml"); !p.empty()) r.settings = read_file(p);
  if (auto p = find("bench.json"); !p.empty()) r.roofline = read_roofline(p);
  check(r.log || r.scores || r.experts || r.results || r.settings || r.roofline,
        "{}: holds nothing to report on (looked for log.jsonl, scores.json, expert_cfg.json, "
        "results.json, run.yaml, bench.json)",
        dir);
  return r;
}

// The shortest ends of the paths that differ: "a/run", "b/run".
std::vector<std::string> report_names(const std::vector<std::string>& dirs) {
  for (int parts = 1;; ++parts) {
    std::vector<std::string> names;
    bool longer = false;
    for (const std::string& d : dirs) {
      fs::path p = fs::path(d).lexically_normal(), name;
      if (!p.has_filename()) p = p.parent_path();
      if (p == "." || p.empty()) p = fs::absolute(p).lexically_normal().parent_path();
      std::vector<fs::path> all(p.begin(), p.end());
      size_t n = std::min(all.size(), static_cast<size_t>(parts));
      for (size_t i = all.size() - n; i < all.size(); ++i) name /= all[i];
      longer |= n < all.size();
      names.push_back(name.string());
    }
    if (!longer || std::set<std::string>(names.begin(), names.end()).size() == names.size())
      return names;
  }
}

}  // namespace sutor
