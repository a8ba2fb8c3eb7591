#pragma once
// Runs a Python program that nobody has read: as a child process in a temporary folder, without
// this process' environment, with limits on time, memory, file size, open files and processes, in
// namespaces of its own (user, processes, network: no interface at all). It still sees the file
// system with the rights of the caller: run unknown models' programs as a user who owns nothing.
// Test: tests/eval_code.cpp.

#include <cstdint>
#include <string>

namespace sutor {

struct SandboxLimits {
  double seconds = 10;                // of wall-clock time, and of CPU time
  int64_t memory = int64_t{1} << 30;  // address space, bytes
  int64_t file = int64_t{16} << 20;   // largest file, bytes
  int64_t processes = 32;             // of this user (the system does not count root's)
  bool network = false;               // true: also without namespaces, where they are forbidden
};

struct SandboxResult {
  int exit_code = -1;  // 128 + signal when ended by one
  bool timed_out = false;
  std::string output;  // stdout and stderr, the last 16 KiB
};

// The interpreter: /usr/bin/python3, else the first on PATH; an error when there is none.
std::string find_python();
// Throws when the child can't be cut off (and limits.network is false) or can't be started.
SandboxResult run_python(const std::string& python, const std::string& program,
                         const SandboxLimits& limits);

}  // namespace sutor
