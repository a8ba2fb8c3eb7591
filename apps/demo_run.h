#pragma once
// What both acts of the demo (apps/demo.cpp: ESFT; apps/demo_pesc.cpp: PESC) do alike: run this
// binary's own commands in one folder, each shown as one could type it; evaluate a model; read
// what a training run logged and wrote.

#include <string>
#include <vector>

#include "apps/args.h"
#include "apps/common.h"
#include "apps/demo_results.h"

namespace sutor {

constexpr const char *kDemoBatch = "4", *kDemoSeq = "256";

// Of --tasks and --methods: the words between commas, each one of the known; "all": all of them.
std::vector<std::string> chosen(const Args& a, const char* option,
                                const std::vector<std::string>& known);

class DemoRun {
 public:
  explicit DemoRun(const Args& a);  // throws when --out is not new or empty
  void make_folder() const;
  std::string operator/(const std::string& name) const { return out_ + "/" + name; }

  // Runs `sutor words...`, with the demo's --threads and one --dtype where it computes with a model
  // (`computes`); returns seconds.
  double command(std::vector<std::string> words, bool computes = true);
  // A line of the shell that is not one of this binary's commands, shown with the others.
  void show(const std::string& line) const;
  // `words` name a model; the share of exact answers, 0..1.
  double evaluate(std::vector<std::string> words, const std::string& rows, const std::string& to);
  // Trains (words as above) and fills what the outcome has of cost; `result` is the folder written.
  void train(const std::vector<std::string>& words, const std::string& run,
             const std::string& result, Outcome& o);
  void report(std::vector<std::string> dirs);  // -> report.html
  // outcomes.json; on stdout the outcomes as a table, or as JSON with --json and nothing else: then
  // false.
  bool show_outcomes(const std::vector<Outcome>& all) const;

 private:
  const Args& a_;
  std::string out_;
  Stopwatch watch_;
};

}  // namespace sutor
