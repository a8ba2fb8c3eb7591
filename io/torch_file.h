#pragma once
// torch .bin/.pt: a zip archive of a pickle and raw storages (PyTorch >= 1.6). The pickle is read
// by an interpreter that knows only what a state dict needs and can run nothing; tensors are views
// into the mapped file, copies only where they are not contiguous.

#include "io/weights.h"

namespace sutor {

class TorchFile : public WeightFile {
 public:
  explicit TorchFile(const std::string& path);
  Tensor get(const std::string& name) const override;

 private:
  struct Layout {
    uint64_t storage_at;  // bytes of the file
    int64_t offset;       // elements
    Shape stride;         // elements
  };
  std::vector<Layout> layouts_;  // as infos_
};

}  // namespace sutor
