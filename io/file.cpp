// Maps, and writes that are whole or absent: temporary beside the target, fsync, rename, fsync of
// the parent. A writer holds flock on its temporary, so that the next writer can tell what a killed
// one left. Folders are exchanged in one step (RENAME_EXCHANGE) where the file system can. Test:
// tests/file.cpp; tests/kill.cpp kills a writer at every system call.

#include "io/file.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <vector>

namespace sutor {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail_errno(const std::string& path, const char* what) {
  int e = errno;
  fail("{}: cannot {}: {}", path, what, std::strerror(e));
}

struct Fd {
  int fd;
  Fd(const std::string& path, int flags, const char* what)
      : fd(open(path.c_str(), flags | O_CLOEXEC)) {
    if (fd < 0) fail_errno(path, what);
  }
  ~Fd() { close(fd); }
};

void sync_path(const std::string& path) {
  Fd f(path, O_RDONLY, "open to sync");
  if (fsync(f.fd) != 0) fail_errno(path, "sync");
}

std::string clean(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string parent_of(const std::string& path) {
  std::string p = fs::path(path).parent_path().string();
  return p.empty() ? "." : p;
}

// A character device or a FIFO: nothing to be renamed over. Other special files cannot be written.
bool is_stream(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return false;
  check(!S_ISBLK(st.st_mode) && !S_ISSOCK(st.st_mode), "{}: is no file", path);
  return S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode);
}

// Where the links at `path` end: a rename must replace what they name, not them.
std::string behind_links(const std::string& path) {
  fs::path p(path);
  std::error_code ec;
  for (int i = 0; i < 40 && fs::is_symlink(p, ec); ++i) {
    fs::path to = fs::read_symlink(p, ec);
    p = to.is_absolute() ? to : fs::path(parent_of(p.string())) / to;
  }
  check(!fs::is_symlink(p, ec), "{}: a loop of symbolic links", path);
  return p.string();
}

const std::string kTmp = ".sutor-tmp-", kOld = ".sutor-old-";

std::string temp_of(const std::string& path, const std::string& prefix) {
  return (fs::path(parent_of(path)) /
          fmt::format("{}{}-{}", prefix, fs::path(path).filename().string(), getpid()))
      .string();
}

// Held by a writer on its temporary while it lives; the kernel drops it with the process.
bool lock(int fd) { return flock(fd, LOCK_EX | LOCK_NB) == 0; }

// NAME of a leftover whose writer is gone; empty: no leftover, or still written.
std::string abandoned(const fs::path& p) {
  std::string file = p.filename().string();
  if (!file.starts_with(kTmp) && !file.starts_with(kOld)) return "";
  size_t dash = file.rfind('-');
  int pid = 0;
  auto [end, ec] = std::from_chars(file.data() + dash + 1, file.data() + file.size(), pid);
  if (dash <= kTmp.size() || ec != std::errc() || end != file.data() + file.size() || pid <= 0)
    return "";
  if (kill(pid, 0) == 0 || errno != ESRCH) return "";
  int fd = open(p.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return "";
  bool free = lock(fd);
  close(fd);
  return free ? file.substr(kTmp.size(), dash - kTmp.size()) : "";
}

void move(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) fail_errno(to, "rename into place");
}

}  // namespace

namespace {

// What git leaves of a large file where git-lfs was not there to fetch it.
void check_no_pointer(std::string_view text, const std::string& path) {
  check(!text.starts_with("version https://git-lfs"),
        "{}: only a git-lfs pointer to the file: fetch it with `git lfs pull` in its folder", path);
}

}  // namespace

MappedFile::MappedFile(std::string p) : path(std::move(p)) {
  Fd f(path, O_RDONLY, "open");
  struct stat st;
  if (fstat(f.fd, &st) != 0) fail_errno(path, "stat");
  check(S_ISREG(st.st_mode), "{}: not a regular file", path);
  size = static_cast<size_t>(st.st_size);
  if (size == 0) return;  // mmap refuses empty maps
  char head[64];
  if (ssize_t n = pread(f.fd, head, sizeof head, 0); n > 0)
    check_no_pointer({head, static_cast<size_t>(n)}, path);
  void* p0 = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, f.fd, 0);
  if (p0 == MAP_FAILED) fail_errno(path, "map");
  data = static_cast<const std::byte*>(p0);
}

MappedFile::~MappedFile() {
  if (data != nullptr) munmap(const_cast<std::byte*>(data), size);
}

std::string read_file(const std::string& path, size_t max_bytes) {
  Fd f(path, O_RDONLY, "open");
  std::string out;
  char buf[1 << 16];
  for (;;) {
    ssize_t n = read(f.fd, buf, sizeof buf);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path, "read");
    if (n == 0) break;
    check(out.size() + n <= max_bytes, "{}: larger than the {} bytes allowed", path, max_bytes);
    out.append(buf, n);
  }
  check_no_pointer(out, path);
  return out;
}

std::string hash_file(const std::string& path) {
  // Read, not mapped: a mapped file of gigabytes would count as this process' memory.
  Fd f(path, O_RDONLY, "open");
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                 XXH3_freeState);
  check(state != nullptr && XXH3_128bits_reset(state.get()) == XXH_OK, "{}: cannot be hashed",
        path);
  std::vector<char> buffer(1 << 20);
  for (;;) {
    ssize_t n = read(f.fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path, "read");
    if (n == 0) break;
    XXH3_128bits_update(state.get(), buffer.data(), static_cast<size_t>(n));
  }
  XXH128_hash_t h = XXH3_128bits_digest(state.get());
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

void sweep_leftovers(const std::string& dir, const std::string& name) {
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), last; !ec && it != last; it.increment(ec)) {
    fs::path p = it->path();
    std::string of = abandoned(p);
    if (of.empty() || (!name.empty() && of != name)) continue;
    std::error_code ignored;
    bool old = p.filename().string().starts_with(kOld);
    if (old && !fs::exists(p.parent_path() / of, ignored))
      fs::rename(p, p.parent_path() / of, ignored);
    else
      fs::remove_all(p, ignored);
  }
}

void check_can_write(const std::string& path, bool folder) {
  check(!path.empty(), "the empty path cannot be written");
  std::error_code ec;
  check(folder || !fs::is_directory(path, ec), "{}: is a folder, a file is to be written", path);
  check(!folder || !fs::exists(path, ec) || fs::is_directory(path, ec), "{}: is no folder", path);
  if (!folder && is_stream(path)) {  // not opened: a FIFO's reader would see its end
    if (access(path.c_str(), W_OK) != 0) fail_errno(path, "write");
    return;
  }
  AtomicFile probe(folder ? clean(path) : path);
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  if (is_stream(path_)) {
    fd_ = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) fail_errno(path_, "open");
    return;
  }
  path_ = behind_links(path_);
  temp_ = temp_of(path_, kTmp);
  sweep_leftovers(parent_of(path_), fs::path(path_).filename().string());
  fd_ = open(temp_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    temp_.clear();
    fail_errno(path_, "create");
  }
  lock(fd_);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close(fd_);
  if (!temp_.empty()) unlink(temp_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  auto* p = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t n = ::write(fd_, p, bytes < (size_t{1} << 30) ? bytes : size_t{1} << 30);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path_, "write");
    p += n;
    bytes -= n;
  }
}

void AtomicFile::commit() {
  bool stream = temp_.empty();
  if (!stream && fsync(fd_) != 0) fail_errno(path_, "sync");
  int fd = fd_;
  fd_ = -1;
  if (close(fd) != 0) fail_errno(path_, "close");
  if (stream) return;
  move(temp_, path_);
  temp_.clear();
  sync_path(parent_of(path_));
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  AtomicFile f(path);
  f.write(bytes.data(), bytes.size());
  f.commit();
}

AtomicFolder::AtomicFolder(std::string path)
    : path_(behind_links(clean(std::move(path)))), temp_(temp_of(path_, kTmp)) {
  sweep_leftovers(parent_of(path_), fs::path(path_).filename().string());
  std::error_code ec;
  fs::remove_all(temp_, ec);  // ours: the pid was reused after a crash
  if (mkdir(temp_.c_str(), 0777) != 0) fail_errno(path_, "create the folder");
  lock_ = open(temp_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0) lock(lock_);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ec;
  if (!done_) fs::remove_all(temp_, ec);
  if (lock_ >= 0) close(lock_);
}

void AtomicFolder::commit() {
  try {
    for (const auto& e : fs::recursive_directory_iterator(temp_))
      if (e.is_regular_file() || e.is_directory()) sync_path(e.path().string());
  } catch (const fs::filesystem_error& e) {
    fail("{}: cannot sync: {}", path_, e.code().message());
  }
  sync_path(temp_);
  // RENAME_EXCHANGE swaps old and new in one step: no moment without a complete folder. Elsewhere:
  // aside, in, remove.
  struct stat st;
  if (lstat(path_.c_str(), &st) != 0) {
    move(temp_, path_);
    done_ = true;
  } else if (renameat2(AT_FDCWD, temp_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
    std::string old = temp_of(path_, kOld);
    move(path_, old);
    if (rename(temp_.c_str(), path_.c_str()) != 0) {
      int e = errno;
      rename(old.c_str(), path_.c_str());
      errno = e;
      fail_errno(path_, "rename into place");
    }
    done_ = true;
    std::error_code ec;
    fs::remove_all(old, ec);
  }
  sync_path(parent_of(path_));
  std::error_code ec;
  if (!done_) fs::remove_all(temp_, ec);  // after an exchange: the old folder
  done_ = true;
}

}  // namespace sutor
