// sutor report: one self-contained HTML page from run folders.
#include "model/report.h"

#include "apps/commands.h"
#include "apps/common.h"
#include "io/file.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positionals(
      "DIR",
      "folders with log.jsonl, scores.json, expert_cfg.json, results.json, run.yaml or bench.json "
      "(of sutor bench kernels --json)");
  a.string("out", "HTML file to write");
  a.flag("quiet", "no progress on stderr");
}

void run(const Args& a) { write_file_atomic(a.required("out"), make_report(a.all("DIR"))); }

}  // namespace
const Command kReport{"report", "one HTML page: curves, expert scores, comparisons",
                      "sutor report run/ --out report.html", declare, run};
}  // namespace sutor
