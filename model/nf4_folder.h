#pragma once
// A hub folder whose linears are in 4 bits, as bitsandbytes stores them; embeddings, head, norms
// and routers stay as they are. Test: tests/nf4.cpp.

#include "model/model.h"

namespace sutor {

struct Nf4Folder {
  int64_t packed = 0, kept = 0;  // weights in 4 bits, and as they were
  int64_t bytes = 0;             // of tensors written
};

// Writes `dir`, with the side files of `base`, and reads it back before it gets its name. Linears
// that are packed already are written as they are; a LoRA is an error.
Nf4Folder write_nf4_folder(const std::string& dir, Model& model, const std::string& base);

}  // namespace sutor
