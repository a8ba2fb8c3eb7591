#pragma once
// Files: mapped for reading; written aside, flushed to disk and renamed, so that a reader never sees half of one.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/tensor.h"

namespace sutor {

// A file mapped read-only. Copy-on-write private pages: nobody else's writes through this mapping.
struct MappedFile : Storage {
  explicit MappedFile(const std::string& path);
  ~MappedFile() override;
  MappedFile(const MappedFile&) = delete;
  std::byte* data = nullptr;
  int64_t size = 0;
};

std::string read_file(const std::string& path, int64_t max_bytes = int64_t{1} << 30);
void write_file_atomic(const std::string& path, std::string_view bytes);
std::string hash_file(const std::string& path);  // XXH3, 128 bits, hex

// A folder that appears whole or not at all: write into dir(), then commit(). What stood at `path` is replaced. Without
// commit() the destructor removes everything.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::string& path);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  const std::string& dir() const { return temp_; }
  void commit();

 private:
  std::string path_, temp_;
};

// Sequential writer to a new file; every error names the path. close() flushes to disk.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  ~FileWriter();
  void write(const void* data, int64_t bytes);
  void close();

 private:
  std::string path_;
  int fd_;
};

}  // namespace sutor
