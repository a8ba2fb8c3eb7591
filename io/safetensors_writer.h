#pragma once
// safetensors writer, byte for byte in the layout of the reference: dtype descending in its enum
// order, then name; header padded to 8; __metadata__ first: {"format":"pt"} and what is given.
// Streams from tensor views; a file appears under its name only when complete.

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "io/file.h"

namespace sutor {

struct TensorSpec {
  std::string name;
  DType dtype;
  Shape shape;
};

using Metadata = std::map<std::string, std::string>;

class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::vector<TensorSpec> specs,
                    const Metadata& metadata = {});  // writes the header
  const std::vector<TensorSpec>& order() const { return specs_; }
  void write(const std::string& name, const Tensor& t);  // in order()
  void commit();                                         // all tensors written

 private:
  std::string path_;
  std::vector<TensorSpec> specs_;
  AtomicFile file_;
  size_t next_ = 0;
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

void save_safetensors(const std::string& path, const NamedTensors& tensors,
                      const Metadata& metadata = {});

// Into the existing folder `dir`: model.safetensors when it fits in shard_bytes, else shards and
// model.safetensors.index.json. For a save that is whole or absent give it AtomicFolder::dir().
void write_checkpoint(const std::string& dir, const NamedTensors& tensors,
                      uint64_t shard_bytes = 5'000'000'000, const Metadata& metadata = {});

}  // namespace sutor
