#pragma once
// Files: read-only maps, and writes that are complete or absent after a crash (sibling temporary,
// fsync, rename, fsync parent). A symbolic link stays one: its target is replaced. A character
// device or a FIFO is written as it comes. Every error is one line with the path and the system's
// reason.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "engine/tensor.h"

namespace sutor {

struct MappedFile : Storage {
  std::string path;
  const std::byte* data = nullptr;
  size_t size = 0;

  explicit MappedFile(std::string path);
  ~MappedFile() override;
  bool mapped() const override { return true; }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
};

std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);
void write_file_atomic(const std::string& path, std::string_view bytes);

// Throws now, before hours of work, when the file (or the folder) cannot be written.
void check_can_write(const std::string& path, bool folder = false);

// A writer that was killed leaves its temporary, named .sutor-tmp-NAME-PID (or .sutor-old-NAME-PID,
// a folder set aside to be replaced). This removes those of `dir`, of one NAME if given, whose
// writer is gone: no such process, and nobody holds the lock that a writer holds on its temporary.
// An old folder whose replacement never arrived gets its name back. Every atomic write begins with
// it for its own name.
void sweep_leftovers(const std::string& dir, const std::string& name = "");

std::string hash_file(const std::string& path);  // XXH3-128, 32 hex digits

// A file written in pieces under its final name only on commit(); removed when destroyed before.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, size_t bytes);
  void commit();

 private:
  std::string path_, temp_;  // temp_ is empty for a device or a FIFO
  int fd_ = -1;
};

// A folder that appears whole: write into dir(), then commit(). An old folder of that name is
// replaced.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::string path);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  const std::string& dir() const { return temp_; }
  void commit();

 private:
  std::string path_, temp_;
  int lock_ = -1;
  bool done_ = false;
};

}  // namespace sutor
