#include "apps/self_run.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "apps/common.h"
#include "io/file.h"

namespace sutor {
namespace {

std::string last_line(const std::string& file) {
  std::string text = read_file(file);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.find_last_of('\n') + 1);  // npos + 1 is 0: the whole text
}

}  // namespace

std::string shell_line(const std::vector<std::string>& words) {
  std::string line = "sutor";
  for (const std::string& w : words)
    line += w.find_first_of(" '\"$\\*|&;<>()") == w.npos && !w.empty() ? " " + w : " '" + w + "'";
  return line;
}

void run_self(const std::vector<std::string>& words, const std::string& log, double* seconds) {
  std::vector<char*> argv;
  std::string self = "sutor";
  argv.push_back(self.data());
  for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  Stopwatch watch;
  pid_t child = 0;
  int failed = posix_spawn(&child, "/proc/self/exe", &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  check(failed == 0, "{}: cannot be started: {}", shell_line(words), std::strerror(failed));
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    check(errno == EINTR, "{}: cannot be waited for: {}", shell_line(words), std::strerror(errno));
  if (seconds) *seconds = watch.seconds();
  check(!WIFSIGNALED(status), "{}: ended by signal {}; its output is in {}", shell_line(words),
        WTERMSIG(status), log);
  check(WEXITSTATUS(status) == 0, "{} failed: {}", shell_line(words), last_line(log));
}

}  // namespace sutor
