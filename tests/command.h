#pragma once
// Running the built binary (environment variable SUTOR) as a user does: exit code, stdout, stderr,
// and what it leaves on disk.

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <set>
#include <string>

#include "io/file.h"
#include "io/json.h"

namespace sutor::test {

struct Result {
  int code;  // -1: ended by a signal
  std::string out, err;
};

// A folder of one test case, removed at its end.
struct Folder {
  Folder()
      : path((std::filesystem::temp_directory_path() / fmt::format("sutor-test-{}", getpid()))
                 .string()) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  std::string file(const std::string& name, const std::string& text) const {
    write_file_atomic(path + "/" + name, text);
    return path + "/" + name;
  }
  std::string path;
};

inline const char* binary() {
  const char* b = std::getenv("SUTOR");
  if (b == nullptr) MESSAGE("skipped: SUTOR does not name the binary");
  return b;
}

// Arguments contain no quotes; the shell splits them. `before` is run by the same shell (limits,
// variables); a redirection at the end of the arguments wins.
inline Result run(const Folder& f, const std::string& arguments, const std::string& before = "") {
  std::string command = fmt::format("{} \"{}\" >{}/.out 2>{}/.err </dev/null {}", before,
                                    std::getenv("SUTOR"), f.path, f.path, arguments);
  int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(f.path + "/.out"),
          read_file(f.path + "/.err")};
}

inline void check_one_line(const Result& r, int code, std::initializer_list<std::string> parts) {
  CAPTURE(r.err);
  CHECK(r.code == code);
  CHECK(r.out.empty());
  CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
  CHECK(r.err.starts_with("sutor"));
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(r.err.find(part) != std::string::npos);
  }
}

// Every path below the folder but the captured output: equal before and after a command that must
// leave nothing.
inline std::set<std::string> entries(const Folder& f) {
  std::set<std::string> all;
  for (const auto& e : std::filesystem::recursive_directory_iterator(f.path))
    if (e.path() != f.path + "/.out" && e.path() != f.path + "/.err") all.insert(e.path().string());
  return all;
}

}  // namespace sutor::test
