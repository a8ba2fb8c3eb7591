#pragma once
// One self-contained HTML page about some runs: before/after table, loss curves, and the figures of
// the ESFT paper (arXiv 2407.01906): Fig. 2 (scores fall off quickly), Fig. 3 (tasks share few of
// their top experts), Fig. 4 (experts trained per layer). Read from each folder, all optional:
// log.jsonl, scores.json, expert_cfg.json (also in adapter/), results.json, run.yaml, bench.json
// (of sutor bench kernels --json: a roofline).

#include <string>
#include <vector>

namespace sutor {

// results.json: {"rows": [{"method","task","general","trainable","stored_bytes","tokens_per_s",
// ...}]}; the first row is the reference. Throws when a folder is missing or holds none of the
// files, and for a file that is there but cannot be read. What a folder lacks is left out of that
// section, with a note.
std::string make_report(const std::vector<std::string>& dirs);

}  // namespace sutor
