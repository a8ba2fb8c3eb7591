#pragma once
// safetensors: u64 header length, JSON header, data; read through a mapping with every check of the reference implementation, in
// its order and by its error names (huggingface/safetensors, tensor.rs). Layout: docs of that project; tests/safetensors.cpp.

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/tensor.h"
#include "io/file.h"

namespace sutor {

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  const std::vector<std::string>& names() const { return names_; }  // by position in the file
  bool has(const std::string& name) const { return entries_.count(name) != 0; }
  Tensor get(const std::string& name) const;  // a view of the mapping; copied only if misaligned for its type

 private:
  struct Entry {
    std::string dtype;
    Shape shape;
    int64_t begin, end;
  };
  std::string path_;
  std::shared_ptr<MappedFile> map_;
  int64_t data_ = 0;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Entry> entries_;
};

// The tensors of a folder (model.safetensors.index.json, or model.safetensors) or of one file. The index's weight_map alone says
// which file holds what; file names with a path in them, missing shards and tensors that are not where it says are errors.
class Checkpoint {
 public:
  static Checkpoint open(const std::string& folder_or_file);
  const std::vector<std::string>& names() const { return names_; }
  bool has(const std::string& name) const { return where_.count(name) != 0; }
  Tensor get(const std::string& name) const;

 private:
  std::string path_;
  std::vector<std::string> names_;
  std::vector<std::shared_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string, SafetensorsFile*> where_;
};

}  // namespace sutor
