#pragma once
// What memory the process may use: the system's (/proc/meminfo) and its control groups' (versions 1
// and 2, each group above its own too). `root` is put before every path. Test: tests/memory.cpp.

#include <cstdint>
#include <optional>
#include <string>

namespace sutor {

struct MemoryLimit {
  int64_t bytes;  // that the tightest group allows
  int64_t free;   // that the fullest group still gives; pages of files, which it takes back, count
};

// Nothing where no group sets one.
std::optional<MemoryLimit> memory_limit(const std::string& root = "");

// Bytes that can be had now: MemAvailable, or what the limit leaves; 0 where neither says.
int64_t available_memory(const std::string& root = "");

// Of this process: VmRSS (resident), VmHWM (the most so far), RssAnon (without mapped files); 0
// where the system does not say.
int64_t process_bytes(const std::string& key);

}  // namespace sutor
