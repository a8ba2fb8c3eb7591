#include "io/memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace sutor {
namespace {

struct Files {
  const char *folder, *limit, *used, *stat;  // stat: before the keys of memory.stat
};
constexpr Files kV2{"/sys/fs/cgroup", "memory.max", "memory.current", ""};
constexpr Files kV1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                    "total_"};                  // with the groups below, as usage_in_bytes
constexpr int64_t kNoLimit = int64_t{1} << 50;  // version 1 says a number near 2^63

int64_t number_in(const std::string& file) {
  std::ifstream f(file);
  int64_t n = 0;
  return f >> n ? n : -1;  // "max", or no such file
}

int64_t file_pages(const std::string& file, const std::string& prefix) {
  std::ifstream f(file);
  int64_t sum = 0, n = 0;
  for (std::string key; f >> key >> n;)
    if (key == prefix + "inactive_file" || key == prefix + "active_file") sum += n;
  return sum;
}

void tighten(std::optional<MemoryLimit>& least, const std::string& group, const Files& files) {
  const int64_t limit = number_in(group + "/" + files.limit);
  if (limit < 0 || limit >= kNoLimit) return;
  const int64_t used = std::max<int64_t>(0, number_in(group + "/" + files.used)),
                held = used - std::min(used, file_pages(group + "/memory.stat", files.stat)),
                free = std::max<int64_t>(0, limit - held);
  if (!least) least = {limit, free};
  least = {std::min(least->bytes, limit), std::min(least->free, free)};
}

}  // namespace

std::optional<MemoryLimit> memory_limit(const std::string& root) {
  std::optional<MemoryLimit> least;
  std::ifstream groups(root + "/proc/self/cgroup");  // number:controllers:/path
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v1 = controllers.find(",memory,") != controllers.npos;
    if (!v1 && controllers != ",,") continue;
    const Files& files = v1 ? kV1 : kV2;
    // In a container the path may be the host's, and the group itself lie at the folder's root.
    for (std::string path = line.substr(second + 1);;) {
      while (path.ends_with('/')) path.pop_back();
      tighten(least, root + files.folder + path, files);
      if (path.empty()) break;
      path.resize(path.find_last_of('/') == path.npos ? 0 : path.find_last_of('/'));
    }
  }
  return least;
}

int64_t available_memory(const std::string& root) {
  int64_t bytes = 0;
  std::ifstream f(root + "/proc/meminfo");
  for (std::string line; std::getline(f, line);)
    if (line.starts_with("MemAvailable:")) {
      std::istringstream in(line.substr(13));
      if (in >> bytes) bytes *= 1024;
    }
  const std::optional<MemoryLimit> limit = memory_limit(root);
  return limit && (bytes == 0 || limit->free < bytes) ? limit->free : bytes;
}

int64_t process_bytes(const std::string& key) {
  std::ifstream f("/proc/self/status");
  for (std::string line; std::getline(f, line);)
    if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1)) * 1024;
  return 0;
}

}  // namespace sutor
