// Layout (ggml/docs/gguf.md): "GGUF", version, counts, key-value pairs, tensor infos, padding,
// data. Every count is held against the bytes that are left before anything is allocated; tensors
// follow each other without holes, as ggml demands. Test: tests/gguf.cpp (a table of corruptions),
// tests/fuzz/gguf.cpp.

#include "io/gguf.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

namespace sutor {
namespace {

constexpr uint64_t kMaxArray = 1 << 24, kMaxKey = 65535, kMaxName = 64, kMaxAlignment = 4096,
                   kMaxPairs = 4096;

struct GgmlType {
  uint32_t id;
  std::string_view name;  // as dtypes are called here; quantised ones as in ggml
  uint64_t elements, bytes;
};
constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4},       {1, "F16", 1, 2},       {2, "Q4_0", 32, 18}, {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},    {7, "Q5_1", 32, 24},    {8, "Q8_0", 32, 34}, {12, "Q4_K", 256, 144},
    {13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210}, {24, "I8", 1, 1},    {25, "I16", 1, 2},
    {26, "I32", 1, 4},      {27, "I64", 1, 8},      {28, "F64", 1, 8},   {30, "BF16", 1, 2},
};

const GgmlType* ggml_type(uint32_t id) {
  for (const GgmlType& t : kTypes)
    if (t.id == id) return &t;
  return nullptr;
}

std::string type_names() {
  std::vector<std::string_view> names;
  for (const GgmlType& t : kTypes) names.push_back(t.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// The double that prints like the float: 1e-05f is 1e-05, not 9.999999747378752e-06.
double shortest(float f) {
  if (!std::isfinite(f)) return f;
  char text[64];
  auto end = std::to_chars(text, text + sizeof(text), f).ptr;
  double d = f;
  std::from_chars(text, end, d);
  return d;
}

class Reader {
 public:
  explicit Reader(const MappedFile& m) : m_(m) {}
  size_t at() const { return at_; }
  size_t left() const { return m_.size - at_; }

  std::string_view take(uint64_t n, const char* what) {
    check(n <= left(), "{}: cut off: {} of {} bytes at byte {}, the file has {} more", m_.path,
          what, n, at_, left());
    at_ += n;
    return {reinterpret_cast<const char*>(m_.data) + at_ - n, n};
  }
  template <class T>
  T number(const char* what) {
    T v;
    std::memcpy(&v, take(sizeof(T), what).data(), sizeof(T));
    return v;
  }
  std::string_view text(const char* what) { return take(number<uint64_t>(what), what); }
  // A number of things that take at least `each` bytes.
  uint64_t count(uint64_t each, const char* what) {
    auto n = number<uint64_t>(what);
    check(n <= left() / each, "{}: {} is {}, more than the {} bytes left can hold", m_.path, what,
          n, left());
    return n;
  }

  Json value(uint32_t type, const std::string& key) {
    const char* what = "a metadata value";
    switch (type) {
      case 0:
        return number<uint8_t>(what);
      case 1:
        return number<int8_t>(what);
      case 2:
        return number<uint16_t>(what);
      case 3:
        return number<int16_t>(what);
      case 4:
        return number<uint32_t>(what);
      case 5:
        return number<int32_t>(what);
      case 6:
        return shortest(number<float>(what));
      case 7:
        return number<uint8_t>(what) != 0;
      case 8:
        return std::string(text("a metadata text"));
      case 10:
        return number<uint64_t>(what);
      case 11:
        return number<int64_t>(what);
      case 12:
        return number<double>(what);
      default:
        fail("{}: key {} has value type {}, known: 0 to 12", m_.path, key, type);
    }
  }
  Json array(const std::string& key) {
    auto type = number<uint32_t>("an array's type");
    check(type < 13 && type != 9, "{}: key {}: an array of type {}, allowed: 0 to 8, 10 to 12",
          m_.path, key, type);
    constexpr int kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    uint64_t n = count(kBytes[type], "an array's length");
    check(n <= kMaxArray, "{}: key {}: an array of {}, at most {} allowed", m_.path, key, n,
          kMaxArray);
    Json out = Json::array();
    for (uint64_t i = 0; i < n; ++i) out.push_back(value(type, key));
    return out;
  }

 private:
  const MappedFile& m_;
  size_t at_ = 0;
};

}  // namespace

const Json* GgufFile::find(const std::string& key) const {
  auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &*it;
}

GgufFile::GgufFile(const std::string& path) : WeightFile(path) {
  Reader r(*map_);
  check(r.take(std::min<size_t>(4, map_->size), "magic") == "GGUF",
        "{}: not a GGUF file: it does not begin with GGUF", path);
  auto version = r.number<uint32_t>("version");
  check((version & 0xffff) != 0, "{}: a big-endian GGUF file; little-endian is read", path);
  check(version == 2 || version == 3, "{}: GGUF version {}, known: 2, 3", path, version);
  uint64_t tensors = r.count(1, "the number of tensors"), pairs = r.count(13, "the number of keys");
  check(pairs <= kMaxPairs, "{}: the number of keys is {}, at most {} allowed", path, pairs,
        kMaxPairs);
  constexpr uint64_t kInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;
  check(tensors <= r.left() / kInfoBytes,
        "{}: the number of tensors is {}, more than the {} bytes left can hold", path, tensors,
        r.left());
  std::unordered_map<std::string, bool> seen;
  for (uint64_t i = 0; i < pairs; ++i) {
    std::string key(r.text("a key"));
    check(!key.empty() && key.size() <= kMaxKey, "{}: key {} has {} bytes, 1 to {} allowed", path,
          i, key.size(), kMaxKey);
    check(seen.emplace(key, true).second, "{}: key {} is there twice", path, key);
    auto type = r.number<uint32_t>("a key's type");
    metadata_.push_back({key, type == 9 ? r.array(key) : r.value(type, key)});
  }
  auto alignment = gguf_value<uint64_t>(*this, "general.alignment", 32);
  check(std::has_single_bit(alignment) && alignment <= kMaxAlignment,
        "{}: general.alignment is {}, a power of two up to {} allowed", path, alignment,
        kMaxAlignment);
  uint64_t total = 0;  // all sizes together fit: each is held against the file
  std::vector<TensorInfo> infos;
  for (uint64_t i = 0; i < tensors; ++i) {
    TensorInfo t;
    t.name = r.text("a tensor's name");
    check(!t.name.empty() && t.name.size() <= kMaxName,
          "{}: the name of tensor {} has {} bytes, 1 to {} allowed", path, i, t.name.size(),
          kMaxName);
    auto dims = r.number<uint32_t>("a tensor's dimensions");
    check(dims >= 1 && dims <= 4, "{}: tensor {} has {} dimensions, 1 to 4 allowed", path, t.name,
          dims);
    uint64_t n = 1;
    bool fits = true;
    for (uint32_t d = 0; d < dims; ++d) {
      auto ne = r.number<uint64_t>("a dimension");
      check(ne > 0 && std::in_range<int64_t>(ne), "{}: tensor {}: dimension {} is {}", path, t.name,
            d, ne);
      fits = fits && !__builtin_mul_overflow(n, ne, &n);
      t.shape.insert(t.shape.begin(), static_cast<int64_t>(ne));
    }
    auto id = r.number<uint32_t>("a tensor's type");
    const GgmlType* type = ggml_type(id);
    check(type != nullptr, "{}: tensor {} has ggml type {}, known: {}", path, t.name, id,
          type_names());
    t.dtype = type->name;
    check(static_cast<uint64_t>(t.shape.back()) % type->elements == 0,
          "{}: tensor {} has rows of {}, {} comes in blocks of {}", path, t.name, t.shape.back(),
          t.dtype, type->elements);
    fits = fits && n / type->elements <= map_->size / type->bytes;
    check(fits, "{}: tensor {} {} {} does not fit the file of {} bytes", path, t.name, t.dtype,
          to_string(t.shape), map_->size);
    auto offset = r.number<uint64_t>("a tensor's offset");
    check(offset == total, "{}: tensor {} is at {}, expected at {}", path, t.name, offset, total);
    t.begin = offset;
    t.end = offset + n / type->elements * type->bytes;
    total = (t.end + alignment - 1) / alignment * alignment;
    check(t.end <= map_->size, "{}: tensor {} ends at {} of a file of {} bytes", path, t.name,
          t.end, map_->size);
    infos.push_back(std::move(t));
  }
  uint64_t data = (r.at() + alignment - 1) / alignment * alignment;
  for (TensorInfo& t : infos) {
    t.begin += data;
    t.end += data;
    check(t.end <= map_->size, "{}: cut off: tensor {} ends at byte {}, the file has {}", path,
          t.name, t.end, map_->size);
    add(std::move(t));
  }
}

Tensor GgufFile::get(const std::string& name) const {
  const TensorInfo& t = info(name);
  auto dtype = dtype_named(t.dtype);
  check(dtype.has_value(), "{}: tensor {} is quantised ({})", path(), name, t.dtype);
  return mapped(t.begin, t.shape, *dtype);
}

}  // namespace sutor
