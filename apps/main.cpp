// The only place that exits: 0 done, 1 the work failed (one line on stderr), 2 wrong usage.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>
#include <thread>

#include "apps/commands.h"
#include "apps/ranks.h"
#include "io/json.h"

using namespace sutor;

namespace {

constexpr const char* kVersion = "0.1.0";

std::string usage() {
  std::string s =
      "sutor: trains and runs Mixture-of-Experts models; ESFT: trains only the experts that carry "
      "a "
      "task\n\n";
  for (const Command* c : commands()) s += fmt::format("  {:<10} {}\n", c->name, c->summary);
  return s + "\nsutor COMMAND --help tells more.\n";
}

std::string one_line(std::string s) {
  for (char& c : s)
    if (c == '\n' || c == '\r') c = ' ';
  return s;
}

void run(const Command& c, int argc, char** argv) {
  Args args(c.name, c.summary, c.example);
  c.declare(args);
  if (!args.parse(argc, argv)) return;
  if (const int n = ranks_that_mpi_started(); n > 1 && !declares_ranks(args))
    throw UsageError(fmt::format("runs on one rank, {} were started", n));
  c.run(args);
}

// Work, then what it left in stdout's buffer. An error is one line, written without exceptions: a
// full stderr must not turn it into an abort.
template <class Work>
int guarded(const std::string& who, Work&& work) {
  int code = 1;
  std::string why;
  try {
    work();
    if (std::fflush(stdout) == 0) return 0;
    why = fmt::format("standard output: cannot be written: {}", std::strerror(errno));
  } catch (const UsageError& e) {
    code = 2;
    why = e.what();
  } catch (const std::bad_alloc&) {
    why = "out of memory";
  } catch (const std::filesystem::filesystem_error& e) {
    why = e.what();
  } catch (const std::system_error& e) {
    bool printing = std::ferror(stdout) != 0;  // then it is what fmt::print throws
    why = printing ? fmt::format("standard output: cannot be written: {}", e.code().message())
                   : e.what();
  } catch (const Json::exception& e) {
    why = reason(e);
  } catch (const std::exception& e) {
    why = e.what();
  }
  std::string rank;
  if (const int r = rank_that_mpi_gave(); r > 0) {
    // What rank 0 ran into as well is said once: wrong usage always is; else it ends the others.
    std::this_thread::sleep_for(std::chrono::milliseconds(1000));
    if (code == 2) return code;
    rank = fmt::format("rank {}: ", r);
  }
  quiet_rank = false;
  note("{}: {}{}\n", who, rank, one_line(why));
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  for (int sig : {SIGPIPE, SIGXFSZ}) std::signal(sig, SIG_IGN);  // errors of write, not deaths
  if (argc < 2) {
    note("{}", usage());
    return 2;
  }
  std::string name = argv[1];
  if (name == "--help" || name == "-h" || name == "help")
    return guarded("sutor", [] { fmt::print("{}", usage()); });
  if (name == "--version") return guarded("sutor", [] { fmt::print("sutor {}\n", kVersion); });
  for (const Command* c : commands())
    if (name == c->name) {
      const int code = guarded("sutor " + name, [&] { run(*c, argc - 2, argv + 2); });
      leave_mpi(code);
      return code;
    }
  note("sutor: no command '{}'; sutor --help lists them\n", one_line(name));
  return 2;
}
