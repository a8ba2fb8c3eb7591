#pragma once
// Weights in huge pages. A mapped file gives a part of the memory's read speed, because its pages
// are small: where every weight is read again and again (generation), a copy in huge pages pays.
// The file's pages are let go as it is made, so there is one copy at a time. Test:
// tests/huge_pages.cpp.

#include <cstdint>

#include "model/model.h"

namespace sutor {

// Bytes of the weights that a pass reads whole and a file holds: matrices but the embedding.
int64_t mapped_weight_bytes(const Model& model);

// Moves them; values stay, bit for bit. Returns the bytes moved.
int64_t move_to_huge_pages(Model& model);

}  // namespace sutor
