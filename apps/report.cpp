// sutor report: one self-contained HTML page from run folders.
#include "model/report.h"

#include "apps/commands.h"
#include "apps/common.h"
#include "io/file.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.list("run", "folder with log.jsonl, scores.json, expert_cfg.json, results.json or run.yaml");
  a.positional("DIR", "a first such folder", true);
  a.string("out", "HTML file to write");
}

void run(const Args& a) {
  std::vector<std::string> dirs;
  if (a.given("DIR")) dirs.push_back(a.str("DIR"));
  for (const std::string& d : a.all("run")) dirs.push_back(d);
  if (dirs.empty()) throw UsageError("DIR is missing: which folders to report on");
  write_file_atomic(a.required("out"), make_report(dirs));
}

}  // namespace
const Command kReport{"report", "one HTML page: curves, expert scores, comparisons", "sutor report run/ --out report.html", declare, run};
}  // namespace sutor
