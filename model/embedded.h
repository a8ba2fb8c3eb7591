#pragma once
// The embedded model: a 5.4 M parameter DeepSeek-V2 with 64 experts a layer that this engine
// trained on the toy language (model/toy_language.h). It is the hub folder recipes/embedded of the
// source tree, which says how it was made; the binary carries its files. Its dense sibling, a LLaMA
// of 2.4 M parameters that learned the same from the same rows: recipes/embedded-dense.

#include <string>

namespace sutor {

// Write the hub folder. Whole or not at all.
void write_embedded_model(const std::string& dir);
void write_embedded_dense_model(const std::string& dir);

}  // namespace sutor
