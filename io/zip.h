#pragma once
// The directory of a zip archive whose entries are stored, not compressed (as torch writes them):
// where in the file each entry's bytes are. Zip64 included. Every offset is checked against the
// file; checksums are not read.

#include <cstdint>
#include <string>
#include <vector>

#include "io/file.h"

namespace sutor {

struct ZipEntry {
  std::string name;
  uint64_t at = 0, size = 0;  // bytes of the file
};
std::vector<ZipEntry> zip_entries(const MappedFile& file);

}  // namespace sutor
