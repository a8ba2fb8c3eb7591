#include "apps/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace sutor {

Progress::Progress(std::string what, int64_t total, bool quiet)
    : what_(std::move(what)), total_(total), quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0), last_(begin_) {
  const char *no_colour = std::getenv("NO_COLOR"), *term = std::getenv("TERM");
  bool dumb = term != nullptr && std::strcmp(term, "dumb") == 0;
  terminal_ = terminal_ && !dumb;
  colour_ = terminal_ && (no_colour == nullptr || *no_colour == '\0');
}

// Also runs when an error passes through: the message must start on a line of its own.
Progress::~Progress() {
  if (drawn_) fmt::print(stderr, "\n");
}

void Progress::at(int64_t done, const std::string& note) {
  if (quiet_) return;
  Clock::time_point now = Clock::now();
  bool finished = total_ > 0 && done >= total_;
  double since = std::chrono::duration<double>(now - last_).count();
  if (since < (terminal_ ? 0.1 : 10.0) && !finished) return;
  last_ = now;
  double seconds = std::chrono::duration<double>(now - begin_).count();
  std::string count = total_ > 0 ? fmt::format("{}/{}", done, total_) : fmt::format("{}", done);
  std::string left = total_ > 0 && done > 0 && !finished ? fmt::format(", {:.0f} s left", seconds / static_cast<double>(done) * static_cast<double>(total_ - done)) : "";
  std::string tail = fmt::format("{}  {:.0f} s{}{}{}", count, seconds, left, note.empty() ? "" : "  ", note);
  if (!terminal_) {
    fmt::print(stderr, "{}: {}\n", what_, tail);
    return;
  }
  std::string bar;
  if (total_ > 0) {
    constexpr int64_t kWidth = 24;
    int64_t full = std::clamp<int64_t>(done, 0, total_) * kWidth / total_;
    std::string filled(static_cast<size_t>(full), '#'), rest(static_cast<size_t>(kWidth - full), '.');
    bar = colour_ ? fmt::format("\x1b[32m{}\x1b[0m{} ", filled, rest) : filled + rest + " ";
  }
  fmt::print(stderr, "\r\x1b[K{} {}{}", what_, bar, tail);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace sutor
