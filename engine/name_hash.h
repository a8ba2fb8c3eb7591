#pragma once
// Seeds by name: what is drawn for one place (a tensor, a dropout) depends on no other.

#include <cstdint>
#include <string_view>

namespace sutor {

// FNV-1a over the name, from a basis that the seed changes.
inline uint64_t name_hash(uint64_t seed, std::string_view name) {
  uint64_t state = seed ^ 0xcbf29ce484222325u;
  for (unsigned char ch : name) state = (state ^ ch) * 0x100000001b3u;
  return state;
}

}  // namespace sutor
