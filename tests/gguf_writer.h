#pragma once
// GGUF files for tests, byte by byte, so that any part of them can be damaged.

#include <cstdint>
#include <string>
#include <vector>

#include "tests/torch_writer.h"  // le()

namespace sutor::test {

inline std::string gguf_text(const std::string& s) { return le<uint64_t>(s.size()) + s; }
inline std::string gguf_key(const std::string& key, uint32_t type, const std::string& value) {
  return gguf_text(key) + le(type) + value;
}
inline std::string gguf_key(const std::string& key, uint32_t value) {
  return gguf_key(key, 4, le(value));
}
inline std::string gguf_key(const std::string& key, const std::string& value) {
  return gguf_key(key, 8, gguf_text(value));
}
inline std::string gguf_tensor(const std::string& name, const std::vector<uint64_t>& ne,
                               uint32_t type, uint64_t offset) {
  std::string s = gguf_text(name) + le(static_cast<uint32_t>(ne.size()));
  for (uint64_t n : ne) s += le(n);
  return s + le(type) + le(offset);
}
inline std::string gguf_of(const std::vector<std::string>& keys,
                           const std::vector<std::string>& tensors, size_t data,
                           uint32_t version = 3) {
  std::string s = "GGUF" + le(version) + le<uint64_t>(tensors.size()) + le<uint64_t>(keys.size());
  for (const std::string& k : keys) s += k;
  for (const std::string& t : tensors) s += t;
  s.resize((s.size() + 31) / 32 * 32);
  return s + std::string(data, 'x');
}

}  // namespace sutor::test
