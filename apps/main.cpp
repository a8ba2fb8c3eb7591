// The only place that exits: 0 done, 1 the work failed (one line on stderr), 2 wrong usage.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>

#include "apps/commands.h"

using namespace sutor;

namespace {

constexpr const char* kVersion = "0.1.0";

int usage(FILE* to) {
  fmt::print(to,
             "sutor: trains and runs Mixture-of-Experts models; ESFT: trains only the experts that "
             "carry a task\n\n");
  for (const Command* c : commands()) fmt::print(to, "  {:<10} {}\n", c->name, c->summary);
  fmt::print(to, "\nsutor COMMAND --help tells more.\n");
  return to == stdout ? 0 : 2;
}

std::string one_line(std::string s) {
  for (char& c : s)
    if (c == '\n' || c == '\r') c = ' ';
  return s;
}

int run(const Command& c, int argc, char** argv) {
  Args args(c.name, c.summary, c.example);
  c.declare(args);
  if (args.parse(argc, argv)) c.run(args);
  if (std::fflush(stdout) != 0)
    fail("standard output: cannot be written: {}", std::strerror(errno));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  if (argc < 2) return usage(stderr);
  std::string name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") return usage(stdout);
  if (name == "--version") {
    fmt::print("sutor {}\n", kVersion);
    return 0;
  }
  for (const Command* c : commands()) {
    if (name != c->name) continue;
    try {
      return run(*c, argc - 2, argv + 2);
    } catch (const UsageError& e) {
      fmt::print(stderr, "sutor {}: {}\n", name, one_line(e.what()));
      return 2;
    } catch (const std::bad_alloc&) {
      fmt::print(stderr, "sutor {}: out of memory\n", name);
      return 1;
    } catch (const std::exception& e) {
      fmt::print(stderr, "sutor {}: {}\n", name, one_line(e.what()));
      return 1;
    }
  }
  fmt::print(stderr, "sutor: no command '{}'; sutor --help lists them\n", name);
  return 2;
}
