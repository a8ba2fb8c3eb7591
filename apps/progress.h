#pragma once
// How far a long command is, on stderr: a bar redrawn in place on a terminal, otherwise a line every ten seconds.
// NO_COLOR (no-color.org) removes colour, not the bar.

#include <chrono>
#include <cstdint>
#include <string>

namespace sutor {

class Progress {
 public:
  // total 0: not known. quiet: prints nothing.
  Progress(std::string what, int64_t total, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  void at(int64_t done, const std::string& note = "");  // the note follows the count: "loss 1.23"

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  int64_t total_;
  bool quiet_, terminal_, colour_, drawn_ = false;
  Clock::time_point begin_ = Clock::now(), last_;
};

}  // namespace sutor
