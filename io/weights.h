#pragma once
// Where weights come from, whatever the format: tensors by name, of one file (safetensors, torch
// .bin, GGUF) or of a folder of shards. Nothing is read before it is used; what a file holds in a
// type that tensors have is a view into its map. For one thread: get() may keep what it made.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/file.h"

namespace sutor {

struct TensorInfo {
  std::string name;
  std::string dtype;  // as in the file; may be one that get() cannot return (F8_E5M2, ...), or
                      // returns the bytes of (F8_E4M3, as U8)
  Shape shape;
  uint64_t begin = 0, end = 0;  // bytes, relative to the file's data area
};

class Weights {
 public:
  virtual ~Weights() = default;
  virtual const std::string& path() const = 0;
  virtual const std::vector<std::string>& names() const = 0;  // in file order
  virtual bool has(const std::string& name) const = 0;
  virtual const TensorInfo& info(const std::string& name) const = 0;
  virtual Tensor get(const std::string& name) const = 0;  // a view where that is possible
  virtual const std::string& where(const std::string& name) const = 0;  // the tensor's file
};

// What the formats share: a map, an index of the tensors in it.
class WeightFile : public Weights {
 public:
  const std::string& path() const override { return map_->path; }
  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return index_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const override;
  const std::string& where(const std::string&) const override { return path(); }

 protected:
  explicit WeightFile(const std::string& path) : map_(std::make_shared<MappedFile>(path)) {}
  void add(TensorInfo info);  // a name that is there already: an error
  size_t index_of(const std::string& name) const;
  // Bytes of the map as a tensor: a view; a copy only where they are not aligned.
  Tensor mapped(uint64_t at, const Shape& shape, DType dtype) const;

  std::shared_ptr<MappedFile> map_;
  std::vector<TensorInfo> infos_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, size_t> index_;
};

enum class WeightFormat { kSafetensors, kTorch, kGguf };
WeightFormat format_of(const MappedFile& file);  // by its first bytes, else by its extension

// One file of any format, an index.json, or a folder with model.safetensors, pytorch_model.bin,
// either one's .index.json, or a single *.safetensors. Of an index only weight_map counts: it
// names every tensor of its shards, which are plain file names inside the folder.
class Checkpoint : public Weights {
 public:
  static Checkpoint open(const std::string& path);
  const std::string& path() const override { return path_; }
  const std::vector<std::string>& names() const override {
    return names_;
  }  // shards in name order, each in file order
  bool has(const std::string& name) const override { return owner_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const override { return file(name).info(name); }
  Tensor get(const std::string& name) const override { return file(name).get(name); }
  const std::string& where(const std::string& name) const override { return file(name).path(); }
  uint64_t total_bytes() const { return total_; }
  std::vector<std::string> files() const;  // the paths of all files with weights, opened
  // Of the first file's __metadata__ (safetensors); empty where there is none.
  std::string metadata(const std::string& key) const;

 private:
  void add(const std::string& path, const std::map<std::string, std::string>* weight_map,
           const std::string& file_name);
  void add_indexed(const std::string& index);
  const WeightFile& file(const std::string& name) const;
  std::string path_;
  std::vector<std::shared_ptr<const WeightFile>> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, size_t> owner_;
  std::vector<std::pair<std::string, std::string>> unlisted_;  // by the index; with their shards
  uint64_t total_ = 0;
};

// The file of weights that Checkpoint::open() would begin with; empty when the folder has none.
std::string weights_of_folder(const std::string& folder);

std::optional<DType> dtype_named(std::string_view name);  // as safetensors calls them

}  // namespace sutor
