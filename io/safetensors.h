#pragma once
// safetensors reader: u64 LE N, N bytes of JSON header, data. Tensors are views into the map;
// nothing is read before it is used. Checks and error names follow huggingface/safetensors,
// stricter in two: header starts with '{', duplicate keys are refused.

#include "io/weights.h"

namespace sutor {

class SafetensorsFile : public WeightFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  Tensor get(const std::string& name) const override;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  uint64_t total_bytes() const { return total_; }  // of tensor data

 private:
  std::map<std::string, std::string> metadata_;
  uint64_t data_at_ = 0, total_ = 0;
};

}  // namespace sutor
