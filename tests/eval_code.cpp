// Programs of unknown origin: what they may not do, and pass@1. Skipped where there is no python3.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "model/eval_code.h"

using namespace sutor;

namespace {

// Empty when programs can't be run on this machine, with a message.
std::string python() {
  try {
    std::string p = find_python();
    run_python(p, "", {});
    return p;
  } catch (const Error& e) {
    MESSAGE("skipped: " << e.what());
    return "";
  }
}

struct Listener {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = 0;
  Listener() {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t n = sizeof a;
    REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&a), n) == 0);
    REQUIRE(listen(fd, 4) == 0);
    REQUIRE(getsockname(fd, reinterpret_cast<sockaddr*>(&a), &n) == 0);
    port = ntohs(a.sin_port);
  }
  ~Listener() { close(fd); }
};

}  // namespace

TEST_CASE("eval code: the limits of a program") {
  std::string py = python();
  if (py.empty()) return;
  auto output = [&](const std::string& program) { return run_python(py, program, {}).output; };
  CHECK(output("print(6 * 7)") == "42\n");
  CHECK(run_python(py, "import sys; sys.exit(3)", {}).exit_code == 3);
  CHECK(run_python(py, "import ctypes; ctypes.string_at(0)", {}).exit_code == 128 + 11);

  setenv("SUTOR_TEST_SECRET", "abc", 1);
  CHECK(output("import os; print(sorted(os.environ))").find("SECRET") == std::string::npos);
  CHECK(output("import sys; print(len(sys.stdin.read()))") == "0\n");

  Listener server;
  std::string visit = fmt::format(
      "import socket\ntry:\n  socket.create_connection(('127.0.0.1', {}), 1)\n  print('in')\n"
      "except OSError as e:\n  print('out')\n",
      server.port);
  CHECK(output(visit) == "out\n");
  SandboxLimits online;
  online.network = true;
  CHECK(run_python(py, visit, online).output == "in\n");

  CHECK(output("try:\n  bytearray(2 << 30)\nexcept MemoryError:\n  print('no')") == "no\n");
  CHECK(output("try:\n  open('f', 'wb').write(bytes(32 << 20))\nexcept OSError:\n  print('no')")
            .find("no") != std::string::npos);
  std::string folder = output("import os; print(os.getcwd()); open('left', 'w').write('x')");
  CHECK_FALSE(std::filesystem::exists(stripped(folder)));
  CHECK(output("print('x' * 100000)").size() <= 16 << 10);

  using Clock = std::chrono::steady_clock;
  auto seconds = [&](const std::string& program, SandboxLimits l, bool& timed_out) {
    auto start = Clock::now();
    timed_out = run_python(py, program, l).timed_out;
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  SandboxLimits brief;
  brief.seconds = 0.7;
  bool late = false;
  CHECK(seconds("while True: pass", brief, late) < 3);
  CHECK(late);
  CHECK(seconds("import os, time\nos.close(1); os.close(2); time.sleep(60)", brief, late) < 3);
  CHECK(late);
  // What a program leaves behind ends with it.
  CHECK(seconds("import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(60)", {}, late) <
        5);
  CHECK_FALSE(late);
}

TEST_CASE("eval code: pass@1 counts tests that ran to their end") {
  CHECK(function_body("  return 1\n\n\ndef other():\n  pass") == "  return 1\n\n");
  CHECK(function_body("  return 1\nprint(2)") == "  return 1");
  CHECK(function_body("  # a\n  if x:\n    y") == "  # a\n  if x:\n    y");
  std::string py = python();
  if (py.empty()) return;
  Row row;
  row.prompt = "def inc(x):\n    \"\"\"x plus one\"\"\"\n";
  row.entry_point = "inc";
  row.test = "def check(f):\n    assert f(1) == 2\n    assert f(-1) == 0\n";
  std::string why;
  CHECK(passes(row, "    return x + 1\n", py, {}, why));
  CHECK_FALSE(passes(row, "    return 2\n", py, {}, why));
  CHECK(why == "AssertionError");
  CHECK_FALSE(passes(row, "    return x +\n", py, {}, why));
  CHECK(why.starts_with("SyntaxError"));
  CHECK_FALSE(passes(row, "    import os\n    os._exit(0)\n", py, {}, why));
  CHECK(why == "exit code 0");
}
