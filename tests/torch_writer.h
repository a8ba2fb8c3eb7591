#pragma once
// Torch files for tests: a zip archive of stored entries, and the pickle of a flat dict of tensors.

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "io/safetensors_writer.h"

namespace sutor::test {

template <class T>
std::string le(T v) {
  return {reinterpret_cast<const char*>(&v), sizeof(v)};
}

using Entries = std::vector<std::pair<std::string, std::string>>;

inline std::string zip_of(const Entries& entries, uint16_t method = 0) {
  std::string out, directory;
  for (const auto& [name, bytes] : entries) {
    auto n = static_cast<uint32_t>(bytes.size());
    std::string common = le<uint16_t>(20) + le<uint16_t>(0) + le(method) + le<uint32_t>(0) +
                         le<uint32_t>(0) + le(n) + le(n) + le(static_cast<uint16_t>(name.size())) +
                         le<uint16_t>(0);
    directory += le<uint32_t>(0x02014b50) + le<uint16_t>(20) + common + std::string(10, '\0') +
                 le(static_cast<uint32_t>(out.size())) + name;
    out += le<uint32_t>(0x04034b50) + common + name + bytes;
  }
  auto n = static_cast<uint16_t>(entries.size());
  std::string end = le<uint32_t>(0x06054b50) + le<uint32_t>(0) + le(n) + le(n) +
                    le(static_cast<uint32_t>(directory.size())) +
                    le(static_cast<uint32_t>(out.size())) + le<uint16_t>(0);
  return out + directory + end;
}

// Opcodes.
inline std::string text(const std::string& s) {
  return "X" + le(static_cast<uint32_t>(s.size())) + s;
}
inline std::string integer(int64_t v) { return "J" + le(static_cast<int32_t>(v)); }
inline std::string tuple(const std::vector<int64_t>& v) {
  std::string s = "(";
  for (int64_t i : v) s += integer(i);
  return s + "t";
}
inline std::string tensor(const std::string& type, const std::string& key, int64_t elements,
                          int64_t offset, const std::vector<int64_t>& shape,
                          const std::vector<int64_t>& stride) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "c" + type + "\n" + text(key) +
         text("cpu") + integer(elements) + "tQ" + integer(offset) + tuple(shape) + tuple(stride) +
         "\x89" + "ccollections\nOrderedDict\n)RtR";
}
inline std::string pickle(const std::string& body) { return "\x80\x02" + body + "."; }
inline std::string dict(const std::string& items) { return pickle("}(" + items + "u"); }

// As torch.save(state_dict) writes it; tensors F32, BF16 or F16.
inline std::string torch_of(const NamedTensors& tensors) {
  std::string items;
  Entries entries{{"m/data.pkl", ""}};
  for (const auto& [name, given] : tensors) {
    Tensor t = clone(given);
    std::string key = std::to_string(entries.size());
    std::vector<int64_t> stride(t.shape.size(), 1);
    for (size_t i = t.shape.size(); i-- > 1;) stride[i - 1] = stride[i] * t.shape[i];
    items += text(name) + tensor(t.dtype == DType::F32    ? "torch\nFloatStorage"
                                 : t.dtype == DType::BF16 ? "torch\nBFloat16Storage"
                                                          : "torch\nHalfStorage",
                                 key, t.numel(), 0, t.shape, stride);
    entries.emplace_back("m/data/" + key,
                         std::string(reinterpret_cast<const char*>(t.data), t.nbytes()));
  }
  entries[0].second = dict(items);
  return zip_of(entries);
}

}  // namespace sutor::test
