// Saves are whole or absent: kill -9 in the middle, a full disk, a missing parent.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include <filesystem>

#include "io/file.h"

using namespace sutor;
namespace fs = std::filesystem;

namespace {

struct TempDir {
  fs::path path = fs::temp_directory_path() / fmt::format("sutor-file-{}", getpid());
  TempDir() { fs::remove_all(path), fs::create_directory(path); }
  ~TempDir() { fs::remove_all(path); }
  std::string operator/(const std::string& f) const { return (path / f).string(); }
};

void save(const std::string& path, const std::string& text) {
  AtomicFolder f(path);
  write_file_atomic(f.dir() + "/x", text);
  f.commit();
}

size_t entries(const fs::path& p) {
  return std::distance(fs::directory_iterator(p), fs::directory_iterator());
}

}  // namespace

TEST_CASE("file: a folder is replaced whole, kill -9 keeps the previous") {
  TempDir d;
  save(d / "ckpt", "one");
  save(d / "ckpt", "two");
  CHECK(read_file(d / "ckpt/x") == "two");
  CHECK(entries(d.path) == 1);
  for (int ms = 0; ms < 20; ms += 2) {
    pid_t pid = fork();
    if (pid == 0) {
      for (;;) save(d / "ckpt", "two");
    }
    usleep(ms * 1000);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    CHECK(read_file(d / "ckpt/x") == "two");
  }
}

TEST_CASE("file: an uncommitted save leaves nothing") {
  TempDir d;
  {
    AtomicFolder f(d / "ckpt");
    AtomicFile g(d / "x");
    g.write("abc", 3);
  }
  CHECK(entries(d.path) == 0);
}

TEST_CASE("file: errors name the path and leave nothing") {
  TempDir d;
  CHECK_THROWS_WITH_AS(write_file_atomic(d / "no/x", "a"),
                       (d / "no/x: cannot create: No such file or directory").c_str(), Error);
  CHECK_THROWS_AS(read_file(d / "none"), Error);
  CHECK_THROWS_AS(AtomicFolder(d / "no/ckpt"), Error);
  rlimit old;
  getrlimit(RLIMIT_FSIZE, &old);
  rlimit small = {1000, old.rlim_max};
  auto handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  std::string what;
  try {
    write_file_atomic(d / "big", std::string(5000, 'x'));
  } catch (const Error& e) {
    what = e.what();
  }
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  CHECK(what == d / "big: cannot write: File too large");
  CHECK(entries(d.path) == 0);
}

TEST_CASE("file: hash") {
  TempDir d;
  write_file_atomic(d / "e", "");
  CHECK(hash_file(d / "e") == "99aa06d3014798d86001c324468d497f");
  std::string text((3 << 20) + 7, 'a');  // read in several pieces
  text[2 << 20] = 'b';
  write_file_atomic(d / "long", text);
  XXH128_hash_t h = XXH3_128bits(text.data(), text.size());
  CHECK(hash_file(d / "long") == fmt::format("{:016x}{:016x}", h.high64, h.low64));
}

TEST_CASE("file: a link stays a link, a device and a FIFO are written") {
  TempDir d;
  write_file_atomic(d / "real", "old");
  fs::create_symlink("real", d / "link");
  write_file_atomic(d / "link", "new");
  CHECK(fs::is_symlink(d / "link"));
  CHECK(read_file(d / "real") == "new");
  fs::create_symlink("loop", d / "loop");
  CHECK_THROWS_WITH_AS(write_file_atomic(d / "loop", ""), doctest::Contains("loop"), Error);
  save(d / "folder", "one");
  fs::create_directory_symlink("folder", d / "way");
  save(d / "way", "two");
  CHECK(fs::is_symlink(d / "way"));
  CHECK(read_file(d / "folder/x") == "two");
  check_can_write("/dev/null");
  write_file_atomic("/dev/null", "gone");
  CHECK(fs::is_character_file("/dev/null"));
  REQUIRE(mkfifo((d / "fifo").c_str(), 0600) == 0);
  check_can_write(d / "fifo");
  int reader = open((d / "fifo").c_str(), O_RDONLY | O_NONBLOCK);
  write_file_atomic(d / "fifo", "by the pipe");
  char text[64];
  CHECK(std::string(text, read(reader, text, sizeof text)) == "by the pipe");
  close(reader);
  CHECK(fs::is_fifo(d / "fifo"));
}
