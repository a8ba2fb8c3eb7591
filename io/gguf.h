#pragma once
// GGUF (version 2 and 3, little-endian): key-value metadata and tensors. Tensors of a plain type
// are views into the map; quantised ones are given as their blocks, and engine/quant.h knows what
// they mean.

#include "io/json.h"
#include "io/weights.h"

namespace sutor {

class GgufFile : public WeightFile {
 public:
  explicit GgufFile(const std::string& path);
  // Shapes as everywhere in Sutor: slowest first (the file stores them fastest first).
  Tensor get(const std::string& name) const override;  // plain types only
  const std::byte* bytes(const std::string& name) const { return map_->data + info(name).begin; }
  // Of all metadata: numbers, texts, lists of them.
  const Json& metadata() const { return metadata_; }
  const Json* find(const std::string& key) const;  // null: not there
  std::shared_ptr<Storage> storage() const { return map_; }

 private:
  Json metadata_ = Json::object();
};

// The metadata value of a key as T, checked; errors name the file.
template <class T>
T gguf_value(const GgufFile& file, const std::string& key) {
  return get<T>(file.metadata(), key, file.path());
}
template <class T>
T gguf_value(const GgufFile& file, const std::string& key, T fallback) {
  return get_or<T>(file.metadata(), key, fallback, file.path());
}

}  // namespace sutor
