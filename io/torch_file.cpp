// The archive holds NAME/data.pkl (a dict of tensors, each a window into a storage) and
// NAME/data/KEY (the storages, 64-byte aligned). Source: torch/serialization.py. Test:
// tests/torch_file.cpp (against torch's own files, and a table of corruptions),
// tests/fuzz/torch_file.cpp.

#include "io/torch_file.h"

#include <cstring>

#include "io/pickle.h"
#include "io/zip.h"

namespace sutor {
namespace {

using Kind = PickleValue::Kind;

bool contiguous(const Shape& shape, const Shape& stride) {
  int64_t want = 1;
  for (size_t i = shape.size(); i > 0; --i) {
    if (shape[i - 1] != 1 && stride[i - 1] != want) return false;
    want *= shape[i - 1];
  }
  return true;
}

}  // namespace

TorchFile::TorchFile(const std::string& path) : WeightFile(path) {
  auto begins = [this](std::string_view magic) {
    return map_->size >= magic.size() && std::memcmp(map_->data, magic.data(), magic.size()) == 0;
  };
  check(begins("PK\x03\x04"),
        "{}: {}; rewrite it with a newer torch: torch.save(torch.load(\"{}\"), \"{}\")", path,
        begins(std::string_view("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14))
            ? "written by torch before 1.6 (or its legacy format), which is not read"
            : "not a zip archive, which torch >= 1.6 writes",
        path, path);
  std::unordered_map<std::string, ZipEntry> entries;
  std::string top;
  for (ZipEntry& e : zip_entries(*map_)) {
    size_t slash = e.name.find('/');
    if (slash != e.name.npos && e.name.substr(slash) == "/data.pkl") {
      check(top.empty(), "{}: two data.pkl, in {} and {}", path, top, e.name);
      top = e.name.substr(0, slash + 1);
    }
    entries.emplace(e.name, e);
  }
  check(!top.empty(), "{}: no NAME/data.pkl in the archive: not written by torch.save", path);
  auto text = [&](const ZipEntry& e) {
    return std::string_view(reinterpret_cast<const char*>(map_->data) + e.at, e.size);
  };
  if (auto it = entries.find(top + "byteorder"); it != entries.end())
    check(text(it->second) == "little", "{}: byteorder is \"{}\", allowed: little", path,
          text(it->second).substr(0, 16));
  std::deque<PickleValue> values;
  const PickleValue& root = read_pickle(text(entries.at(top + "data.pkl")), path, values);
  check(root.kind == Kind::kDict, "{}: holds {}, a dict of tensors (state_dict()) is expected",
        path, name_of(root.kind));
  for (size_t i = 0; i < root.items.size(); i += 2) {
    const PickleValue &key = *root.items[i], &t = *root.items[i + 1];
    check(key.kind == Kind::kString, "{}: a key of the dict is {}, a string is expected", path,
          name_of(key.kind));
    check(t.kind == Kind::kTensor, "{}: key \"{}\" holds {}, only tensors are expected", path,
          key.text, name_of(t.kind));
    const PickleValue& storage = *t.items[0];
    auto it = entries.find(top + "data/" + storage.text);
    check(it != entries.end(), "{}: tensor {}: its storage {} is not in the archive", path,
          key.text, storage.text);
    uint64_t bytes = 0;
    bool ok = !__builtin_mul_overflow(static_cast<uint64_t>(storage.number),
                                      static_cast<uint64_t>(size_of(t.dtype)), &bytes);
    check(ok && bytes == it->second.size,
          "{}: tensor {}: storage {} should hold {} {}, has {} bytes", path, key.text, storage.text,
          storage.number, name_of(t.dtype), it->second.size);
    uint64_t n = static_cast<uint64_t>(numel_of(t.shape) * size_of(t.dtype)),
             at = it->second.at + static_cast<uint64_t>(t.offset * size_of(t.dtype));
    add({key.text, std::string(name_of(t.dtype)), t.shape, at, at + n});
    Shape stride = t.stride;
    for (size_t d = 0; d < stride.size(); ++d)
      if (t.shape[d] == 1) stride[d] = 0;  // never taken, so bounded by nothing
    layouts_.push_back({it->second.at, t.offset, std::move(stride)});
  }
}

Tensor TorchFile::get(const std::string& name) const {
  size_t index = index_of(name);
  const TensorInfo& t = infos_[index];
  const Layout& l = layouts_[index];
  DType dtype = *dtype_named(t.dtype);
  if (t.begin == t.end) return empty(t.shape, dtype);
  if (contiguous(t.shape, l.stride)) return mapped(t.begin, t.shape, dtype);
  Tensor out = empty(t.shape, dtype);
  int64_t size = size_of(dtype), n = out.numel();
  Shape at(t.shape.size());  // an odometer over the elements
  int64_t from = l.offset;
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(out.data + i * size, map_->data + l.storage_at + from * size, size);
    for (size_t d = at.size(); d > 0; --d) {
      from += l.stride[d - 1];
      if (++at[d - 1] < t.shape[d - 1]) break;
      from -= l.stride[d - 1] * at[d - 1];
      at[d - 1] = 0;
    }
  }
  return out;
}

}  // namespace sutor
