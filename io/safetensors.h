#pragma once
// safetensors reader: u64 LE N, N bytes of JSON header, data. Tensors are views into the map;
// nothing is read before it is used. Checks and error names follow huggingface/safetensors,
// stricter in two: header starts with '{', duplicate keys are refused.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/file.h"

namespace sutor {

struct TensorInfo {
  std::string name;
  std::string dtype;  // as in the file; may be one that get() cannot return (F8_E4M3, ...)
  Shape shape;
  uint64_t begin = 0, end = 0;  // bytes, relative to the data area
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  const std::string& path() const { return map_->path; }
  const std::vector<std::string>& names() const { return names_; }  // in file order
  bool has(const std::string& name) const { return index_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const;
  Tensor get(const std::string& name) const;  // a view; a copy only where the data is not aligned
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  uint64_t total_bytes() const { return total_; }  // of tensor data

 private:
  std::shared_ptr<MappedFile> map_;
  std::vector<TensorInfo> infos_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
  uint64_t data_at_ = 0, total_ = 0;
};

// One file, or a folder with model.safetensors, model.safetensors.index.json or a single
// *.safetensors. Of an index only weight_map counts; shard names are plain file names inside the
// folder.
class Checkpoint {
 public:
  static Checkpoint open(const std::string& path);
  const std::vector<std::string>& names() const {
    return names_;
  }  // shards in name order, each in file order
  bool has(const std::string& name) const { return owner_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const { return file(name).info(name); }
  Tensor get(const std::string& name) const { return file(name).get(name); }
  const std::string& where(const std::string& name) const { return file(name).path(); }
  uint64_t total_bytes() const { return total_; }

 private:
  void add(const std::string& path, const std::map<std::string, std::string>* weight_map,
           const std::string& file_name);
  const SafetensorsFile& file(const std::string& name) const;
  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, size_t> owner_;
  uint64_t total_ = 0;
};

}  // namespace sutor
