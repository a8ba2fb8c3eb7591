#pragma once
// What the fuzz targets share: bytes as a file of this process, in memory, and the rule that any
// input either works or throws Error. Everything else, another exception, a crash, a leak, a hang,
// is a finding.

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine/error.h"

namespace sutor::fuzz {

inline std::string folder() {
  static const std::string path = [] {
    std::string p = fmt::format("/dev/shm/sutor-fuzz-{}", getpid());
    std::filesystem::create_directories(p);
    std::atexit(
        [] { std::filesystem::remove_all(fmt::format("/dev/shm/sutor-fuzz-{}", getpid())); });
    return p;
  }();
  return path;
}

inline std::string file(const std::string& name, const void* data, size_t size) {
  std::string path = folder() + "/" + name;
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  return path;
}

template <class F>
int any(F&& f) {
  try {
    f();
  } catch (const Error&) {
  }
  return 0;
}

}  // namespace sutor::fuzz
