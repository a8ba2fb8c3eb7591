#pragma once
// What the report reads from a run's folder (the files are listed in model/report.h); every piece
// may be missing.

#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/json.h"
#include "io/svg.h"
#include "model/esft.h"

namespace sutor {

constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();  // a value that is not there

struct TrainLog {
  // By step: after a resume the later line counts. load_cv: mean of the layers.
  std::map<int64_t, double> loss, eval, aux, load_cv;
  std::string note;
};

struct ReportRun {
  std::string name;
  std::optional<TrainLog> log;
  std::optional<Scores> scores;
  std::optional<ExpertConfig> experts;
  std::optional<Json> results;
  std::optional<Roofline> roofline;
  std::optional<std::string> settings;
};

ReportRun read_report_run(const std::string& dir);  // without its name
std::vector<std::string> report_names(const std::vector<std::string>& dirs);

}  // namespace sutor
