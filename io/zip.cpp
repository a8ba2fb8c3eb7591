// PKWARE's APPNOTE.TXT: the end record is searched from the end of the file, it leads to the
// central directory, whose entries lead to local headers, behind which the bytes are. Test:
// tests/torch_file.cpp, tests/fuzz/torch_file.cpp.

#include "io/zip.h"

#include <cstring>
#include <set>
#include <string_view>

namespace sutor {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50,
                   kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr uint32_t kFull32 = 0xffffffff;  // the value is in the zip64 record
constexpr size_t kEndBytes = 22, kCentralBytes = 46, kLocalBytes = 30;

struct Bytes {
  const MappedFile& m;
  // What lies outside the file is an error, wherever an offset came from.
  template <class T>
  T at(uint64_t offset) const {
    check(offset <= m.size && sizeof(T) <= m.size - offset,
          "{}: zip: a record at {} lies outside the file of {} bytes", m.path, offset, m.size);
    T v;
    std::memcpy(&v, m.data + offset, sizeof(T));
    return v;
  }
  std::string_view text(uint64_t offset, uint64_t n) const {
    check(offset <= m.size && n <= m.size - offset,
          "{}: zip: {} bytes at {} lie outside the file of {} bytes", m.path, n, offset, m.size);
    return {reinterpret_cast<const char*>(m.data) + offset, n};
  }
};

struct Directory {
  uint64_t at, size, entries;
};

Directory find_directory(const Bytes& b) {
  const MappedFile& m = b.m;
  constexpr size_t kComment = 0xffff;
  check(m.size >= kEndBytes, "{}: zip: the file has {} bytes, too few for an archive", m.path,
        m.size);
  uint64_t end = m.size - kEndBytes, lowest = end > kComment ? end - kComment : 0;
  while (b.at<uint32_t>(end) != kEnd || end + kEndBytes + b.at<uint16_t>(end + 20) != m.size) {
    check(end > lowest, "{}: zip: no end record: the file is cut off or no archive", m.path);
    --end;
  }
  Directory d{b.at<uint32_t>(end + 16), b.at<uint32_t>(end + 12), b.at<uint16_t>(end + 10)};
  if (end >= 20 && b.at<uint32_t>(end - 20) == kLocator64) {
    uint64_t end64 = b.at<uint64_t>(end - 12);
    check(b.at<uint32_t>(end64) == kEnd64, "{}: zip: the zip64 end record is not at {}", m.path,
          end64);
    d = {b.at<uint64_t>(end64 + 48), b.at<uint64_t>(end64 + 40), b.at<uint64_t>(end64 + 32)};
  }
  check(d.at <= m.size && d.size <= m.size - d.at && d.entries <= d.size / kCentralBytes,
        "{}: zip: a directory of {} entries in {} bytes at {} does not fit the file of {} bytes",
        m.path, d.entries, d.size, d.at, m.size);
  return d;
}

}  // namespace

std::vector<ZipEntry> zip_entries(const MappedFile& file) {
  Bytes b{file};
  Directory d = find_directory(b);
  std::vector<ZipEntry> out;
  std::set<std::string_view> seen;
  uint64_t at = d.at;
  for (uint64_t i = 0; i < d.entries; ++i) {
    check(b.at<uint32_t>(at) == kCentral, "{}: zip: entry {} of the directory is damaged",
          file.path, i);
    auto flags = b.at<uint16_t>(at + 8), method = b.at<uint16_t>(at + 10);
    uint64_t packed = b.at<uint32_t>(at + 20), size = b.at<uint32_t>(at + 24);
    uint64_t name_n = b.at<uint16_t>(at + 28), extra_n = b.at<uint16_t>(at + 30),
             comment_n = b.at<uint16_t>(at + 32), local = b.at<uint32_t>(at + 42);
    std::string_view name = b.text(at + kCentralBytes, name_n);
    uint64_t extra = at + kCentralBytes + name_n, extra_end = extra + extra_n;
    b.text(extra, extra_n);
    while (extra + 4 <= extra_end) {  // fields (id, size, bytes); 1: the values that did not fit
      uint64_t n = b.at<uint16_t>(extra + 2), field = extra + 4;
      if (b.at<uint16_t>(extra) == 1)
        for (uint64_t* v : {&size, &packed, &local})
          if (*v == kFull32) *v = b.at<uint64_t>(field), field += 8;
      extra += 4 + n;
    }
    check(seen.insert(name).second, "{}: zip: {} is there twice", file.path, name);
    check((flags & 1) == 0, "{}: zip: {} is encrypted", file.path, name);
    check(method == 0 && packed == size,
          "{}: zip: {} is compressed (method {}); torch stores, allowed: 0", file.path, name,
          method);
    check(b.at<uint32_t>(local) == kLocal, "{}: zip: {} has no local header at {}", file.path, name,
          local);
    uint64_t data = local + kLocalBytes + b.at<uint16_t>(local + 26) + b.at<uint16_t>(local + 28);
    b.text(data, size);
    out.push_back({std::string(name), data, size});
    at = extra_end + comment_n;
  }
  return out;
}

}  // namespace sutor
