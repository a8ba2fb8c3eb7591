// Between fork and exec only system calls: the parent has threads. The first child makes the
// namespaces and forks the one that becomes the program, which is process 1 of its namespace: when
// it ends, the system ends whatever it started.

#include "io/sandbox.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <vector>

#include "engine/error.h"
#include "io/file.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

constexpr size_t kKeptOutput = 16 << 10;

struct Folder {
  std::string path;
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "sutor-program-XXXXXX").string();
    check(mkdtemp(pattern.data()) != nullptr, "{}: cannot be created: {}", pattern,
          std::strerror(errno));
    path = pattern;
  }
  ~Folder() {
    std::error_code ec;
    fs::remove_all(path, ec);
  }
};

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int fd[2];
    check(pipe2(fd, O_CLOEXEC) == 0, "pipe: {}", std::strerror(errno));
    read = fd[0];
    write = fd[1];
  }
  ~Pipe() {
    close(read);
    close_write();
  }
  void close_write() {
    if (write >= 0) close(write);
    write = -1;
  }
};

// What could not be done before the program began.
struct Failure {
  int error;
  char step[24];
};

[[noreturn]] void give_up(int report, const char* step) {
  Failure f{errno, {}};
  std::strncpy(f.step, step, sizeof f.step - 1);
  [[maybe_unused]] ssize_t n = write(report, &f, sizeof f);
  _exit(127);
}

void limit(int report, decltype(RLIMIT_CPU) what, int64_t value) {
  rlimit r{static_cast<rlim_t>(value), static_cast<rlim_t>(value)};
  if (setrlimit(what, &r) != 0) give_up(report, "setrlimit");
}

[[noreturn]] void become_program(const SandboxLimits& l, int report, int output, const char* folder,
                                 char* const* argv, char* const* env) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) give_up(report, "prctl");
  limit(report, RLIMIT_CPU, static_cast<int64_t>(std::ceil(l.seconds)) + 1);
  limit(report, RLIMIT_AS, l.memory);
  limit(report, RLIMIT_FSIZE, l.file);
  limit(report, RLIMIT_NPROC, l.processes);
  limit(report, RLIMIT_NOFILE, 64);
  limit(report, RLIMIT_CORE, 0);
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
    give_up(report, "dup2");
  if (chdir(folder) != 0) give_up(report, "chdir");
  execve(argv[0], argv, env);
  give_up(report, "exec");
}

[[noreturn]] void child(const SandboxLimits& l, int report, int output, const char* folder,
                        char* const* argv, char* const* env) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int own = CLONE_NEWUSER | CLONE_NEWPID | (l.network ? 0 : CLONE_NEWNET);
  if (unshare(own) != 0 && !l.network) give_up(report, "unshare");
  pid_t pid = fork();
  if (pid < 0) give_up(report, "fork");
  if (pid == 0) become_program(l, report, output, folder, argv, env);
  close(report);
  close(output);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) _exit(127);
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

}  // namespace

std::string find_python() {
  std::string path = "/usr/bin";
  if (const char* p = std::getenv("PATH")) path += std::string(":") + p;
  for (size_t at = 0; at <= path.size();) {
    size_t end = std::min(path.find(':', at), path.size());
    std::string file = path.substr(at, end - at) + "/python3";
    if (end > at && access(file.c_str(), X_OK) == 0) return file;
    at = end + 1;
  }
  fail("python3 is not on PATH: it is needed to run programs");
}

SandboxResult run_python(const std::string& python, const std::string& program,
                         const SandboxLimits& limits) {
  Folder folder;
  std::string file = folder.path + "/program.py";
  write_file_atomic(file, program);
  std::vector<std::string> words{python, "-I", "-B", file},
      variables{"PATH=/usr/bin:/bin", "HOME=" + folder.path, "LANG=C.UTF-8"};
  std::vector<char*> argv, env;
  for (std::string& w : words) argv.push_back(w.data());
  for (std::string& v : variables) env.push_back(v.data());
  argv.push_back(nullptr);
  env.push_back(nullptr);
  Pipe report, output;
  pid_t pid = fork();
  check(pid >= 0, "fork: {}", std::strerror(errno));
  if (pid == 0)
    child(limits, report.write, output.write, folder.path.c_str(), argv.data(), env.data());
  report.close_write();
  output.close_write();

  SandboxResult r;
  using Clock = std::chrono::steady_clock;
  auto end = Clock::now() + std::chrono::duration<double>(limits.seconds);
  for (bool open = true; open;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd p{output.read, POLLIN, 0};
    int ready = left > 0 ? poll(&p, 1, static_cast<int>(left)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      r.timed_out = true;
      kill(-pid, SIGKILL);  // the program dies with its parent: PR_SET_PDEATHSIG
      break;
    }
    char buffer[4096];
    ssize_t n = read(output.read, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    open = n > 0;
    if (n > 0) r.output.append(buffer, static_cast<size_t>(n));
    if (r.output.size() > 2 * kKeptOutput) r.output.erase(0, r.output.size() - kKeptOutput);
  }
  // All of its output is closed, which a program may do long before it ends.
  int status = 0;
  for (;;) {
    pid_t done = waitpid(pid, &status, r.timed_out ? 0 : WNOHANG);
    if (done == pid) break;
    check(done == 0 || errno == EINTR, "waitpid: {}", std::strerror(errno));
    if (Clock::now() > end) {
      r.timed_out = true;
      kill(-pid, SIGKILL);
    } else {
      usleep(2000);
    }
  }
  if (r.output.size() > kKeptOutput) r.output.erase(0, r.output.size() - kKeptOutput);
  r.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  Failure f{};
  if (read(report.read, &f, sizeof f) == sizeof f) {
    bool cut = std::strcmp(f.step, "unshare") == 0;
    fail("{}: {}{}", cut ? "a program cannot be cut off from the network here" : f.step,
         std::strerror(f.error), cut ? " (--allow-network runs it all the same)" : "");
  }
  return r;
}

}  // namespace sutor
