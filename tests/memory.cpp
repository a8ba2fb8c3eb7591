// What memory the process may use, of /proc and /sys/fs/cgroup as files in a folder.
#include "io/memory.h"

#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;

namespace {

void put(const Folder& f, const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(f / path).parent_path());
  f.file(path, text);
}

}  // namespace

TEST_CASE("memory: what is available respects the limit of the own control group") {
  Folder f;
  CHECK(available_memory(f.path) == 0);
  CHECK(!memory_limit(f.path));
  put(f, "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
  CHECK(available_memory(f.path) == 8000 * 1024);
  put(f, "proc/self/cgroup", "0::/a/b\n");
  put(f, "sys/fs/cgroup/a/b/memory.max", "max\n");
  put(f, "sys/fs/cgroup/a/b/memory.current", "3000000\n");
  CHECK(available_memory(f.path) == 8000 * 1024);
  put(f, "sys/fs/cgroup/a/b/memory.max", "5000000\n");
  CHECK(available_memory(f.path) == 2000000);
  put(f, "sys/fs/cgroup/a/b/memory.stat", "anon 1\nfile 9\ninactive_file 500000\nactive_file 7\n");
  CHECK(available_memory(f.path) == 2500007);  // the pages of files are taken back
  put(f, "sys/fs/cgroup/a/memory.max", "4000000\n");
  put(f, "sys/fs/cgroup/a/memory.current", "3900000\n");
  CHECK(available_memory(f.path) == 100000);
  CHECK(memory_limit(f.path)->bytes == 4000000);
  put(f, "sys/fs/cgroup/a/memory.current", "4100000\n");
  CHECK(available_memory(f.path) == 0);
}

TEST_CASE("memory: control groups of version 1, and paths that a container does not see") {
  Folder f;
  put(f, "proc/meminfo", "MemAvailable: 8000 kB\n");
  put(f, "proc/self/cgroup", "5:cpu,memory:/docker/abc\n2:cpuset:/x\nnonsense\n0::/\n");
  put(f, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(!memory_limit(f.path));
  put(f, "sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n");
  put(f, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
  put(f, "sys/fs/cgroup/memory/memory.stat", "inactive_file 5\ntotal_inactive_file 10\n");
  CHECK(memory_limit(f.path)->bytes == 3000000);
  CHECK(available_memory(f.path) == 2000010);
}
