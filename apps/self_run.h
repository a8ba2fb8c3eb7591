#pragma once
// Runs this binary's own commands as child processes, so that a command made of commands (demo)
// does exactly what a user would type, each with a process and a peak memory of its own.

#include <string>
#include <vector>

namespace sutor {

// `sutor words...`, its output appended to the file `log`. Throws with the command and the last
// line it wrote when it fails; `seconds`, if given, receives the wall time.
void run_self(const std::vector<std::string>& words, const std::string& log,
              double* seconds = nullptr);

// The words as one could type them into a shell.
std::string shell_line(const std::vector<std::string>& words);

}  // namespace sutor
