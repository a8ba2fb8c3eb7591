#include "io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

namespace sutor {
namespace fs = std::filesystem;
namespace {

std::string parent_of(const std::string& path) {
  fs::path p = fs::path(path).parent_path();
  return p.empty() ? "." : p.string();
}

void flush(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY);
  check(fd >= 0, "{}: cannot be opened to flush it: {}", path, std::strerror(errno));
  int rc = fsync(fd), err = errno;
  close(fd);
  check(rc == 0 || err == EINVAL, "{}: cannot be flushed to disk: {}", path, std::strerror(err));
}

void rename_or_fail(const std::string& from, const std::string& to) {
  check(std::rename(from.c_str(), to.c_str()) == 0, "{}: cannot be put in place: {}", to, std::strerror(errno));
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check(fd >= 0, "{}: cannot be opened: {}", path, std::strerror(errno));
  struct stat st {};
  int rc = fstat(fd, &st);
  if (rc == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
    size = st.st_size;
    void* p = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    data = p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
  }
  int err = errno;
  close(fd);
  check(rc == 0 && S_ISREG(st.st_mode), "{}: not a regular file", path);
  check(st.st_size == 0 || data != nullptr, "{}: cannot be mapped: {}", path, std::strerror(err));
}

MappedFile::~MappedFile() {
  if (data != nullptr) munmap(data, size);
}

std::string read_file(const std::string& path, int64_t max_bytes) {
  MappedFile f(path);
  check(f.size <= max_bytes, "{}: {} bytes, at most {} are read", path, f.size, max_bytes);
  return {reinterpret_cast<const char*>(f.data), static_cast<size_t>(f.size)};
}

FileWriter::FileWriter(const std::string& path) : path_(path), fd_(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
  check(fd_ >= 0, "{}: cannot be written: {}", path, std::strerror(errno));
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::write(const void* data, int64_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t n = ::write(fd_, p, std::min<int64_t>(bytes, 1 << 30));
    if (n < 0 && errno == EINTR) continue;
    check(n > 0, "{}: cannot be written: {}", path_, std::strerror(errno));
    p += n;
    bytes -= n;
  }
}

void FileWriter::close() {
  int rc = fsync(fd_), err = errno;
  if (rc != 0 && err == EINVAL) rc = 0;  // pipes and devices have nothing to flush
  int closed = ::close(fd_);
  fd_ = -1;
  check(rc == 0 && closed == 0, "{}: cannot be flushed to disk: {}", path_, std::strerror(rc != 0 ? err : errno));
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  std::string temp = fmt::format("{}.tmp-{}", path, getpid());
  try {
    FileWriter w(temp);
    w.write(bytes.data(), static_cast<int64_t>(bytes.size()));
    w.close();
    rename_or_fail(temp, path);
  } catch (const Error& e) {
    unlink(temp.c_str());
    // The user knows the path asked for, not the temporary one.
    std::string what = e.what();
    if (what.starts_with(temp)) what = path + what.substr(temp.size());
    throw Error(what);
  }
  flush(parent_of(path));
}

std::string hash_file(const std::string& path) {
  MappedFile f(path);
  XXH128_hash_t h = XXH3_128bits(f.data, static_cast<size_t>(f.size));
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

AtomicFolder::AtomicFolder(const std::string& path) : path_(path) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  std::string parent = parent_of(path_);
  std::error_code ec;
  fs::create_directories(parent, ec);
  check(!ec, "{}: cannot be created: {}", parent, ec.message());
  check(!fs::exists(path_) || fs::is_directory(path_), "{}: exists and is not a folder", path_);
  temp_ = fmt::format("{}/.tmp-{}-{}", parent, fs::path(path_).filename().string(), getpid());
  fs::remove_all(temp_, ec);
  check(fs::create_directory(temp_, ec) && !ec, "{}: cannot be written: {}", path_, ec.message());
}

AtomicFolder::~AtomicFolder() {
  std::error_code ec;
  if (!temp_.empty()) fs::remove_all(temp_, ec);
}

void AtomicFolder::commit() {
  for (const auto& e : fs::recursive_directory_iterator(temp_)) flush(e.path().string());
  flush(temp_);
  std::string old;
  if (fs::exists(path_)) {
    old = temp_ + "-old";
    rename_or_fail(path_, old);
  }
  rename_or_fail(temp_, path_);
  temp_.clear();
  flush(parent_of(path_));
  std::error_code ec;
  if (!old.empty()) fs::remove_all(old, ec);
}

}  // namespace sutor
