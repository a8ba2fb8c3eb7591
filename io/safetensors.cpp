#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "io/json.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;

const std::map<std::string, int> kBits = {
    {"BOOL", 8},        {"F4", 4},          {"F6_E2M3", 6},  {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8},     {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},
    {"U32", 32},        {"F32", 32},        {"C64", 64},     {"F64", 64},    {"I64", 64}, {"U64", 64}};

bool valid_utf8(const unsigned char* p, int64_t n) {
  for (int64_t i = 0; i < n;) {
    int len = p[i] < 0x80 ? 1 : (p[i] >> 5) == 6 ? 2 : (p[i] >> 4) == 14 ? 3 : (p[i] >> 3) == 30 ? 4 : 0;
    if (len == 0 || i + len > n) return false;
    uint32_t c = len == 1 ? p[i] : p[i] & (0xff >> (len + 1));
    for (int j = 1; j < len; ++j) {
      if ((p[i + j] & 0xc0) != 0x80) return false;
      c = c << 6 | (p[i + j] & 0x3f);
    }
    constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < kLeast[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return false;
    i += len;
  }
  return true;
}

int64_t index_of(const Json& v, const std::string& where) {
  check(v.is_number_unsigned() && v.get<uint64_t>() < (uint64_t{1} << 62), "{}: InvalidHeaderDeserialization: {} is not a size", where,
        v.dump());
  return v.get<int64_t>();
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), map_(std::make_shared<MappedFile>(path)) {
  check(map_->size >= 8, "{}: HeaderTooSmall: {} bytes are no safetensors file", path, map_->size);
  uint64_t n;
  std::memcpy(&n, map_->data, 8);
  check(n <= kMaxHeader, "{}: HeaderTooLarge: the header claims {} bytes, at most {} are allowed", path, n, kMaxHeader);
  check(static_cast<int64_t>(n) <= map_->size - 8, "{}: InvalidHeaderLength: the header claims {} bytes, the file has {}: truncated?", path,
        n, map_->size);
  const char* text = reinterpret_cast<const char*>(map_->data) + 8;
  check(valid_utf8(reinterpret_cast<const unsigned char*>(text), static_cast<int64_t>(n)), "{}: InvalidHeader: not UTF-8", path);
  check(n > 0 && text[0] == '{', "{}: InvalidHeaderStart: the header does not begin with '{{'", path);
  data_ = 8 + static_cast<int64_t>(n);
  Json header;
  try {
    header = parse_json({text, static_cast<size_t>(n)}, path, 8);
  } catch (const Error& e) {
    std::string what = e.what();
    fail("{}: InvalidHeaderDeserialization: {}", path, what.substr(std::min(what.size(), path.size() + 2)));
  }
  for (const auto& [name, v] : header.items()) {
    std::string where = path + ": tensor " + name;
    if (name == "__metadata__") {
      check(v.is_object(), "{}: InvalidHeaderDeserialization: __metadata__ must map strings to strings", path);
      for (const auto& [key, text_value] : v.items())
        check(text_value.is_string(), "{}: InvalidHeaderDeserialization: __metadata__.{} is not a string", path, key);
      continue;
    }
    check(v.is_object() && v.size() == 3 && v.contains("dtype") && v.contains("shape") && v.contains("data_offsets"),
          "{}: InvalidHeaderDeserialization: needs exactly dtype, shape and data_offsets", where);
    check(v["dtype"].is_string() && kBits.count(v["dtype"].get<std::string>()), "{}: InvalidHeaderDeserialization: unknown dtype {}", where,
          v["dtype"].dump());
    check(v["shape"].is_array() && v["data_offsets"].is_array() && v["data_offsets"].size() == 2,
          "{}: InvalidHeaderDeserialization: shape or data_offsets is no list of sizes", where);
    Entry e{v["dtype"].get<std::string>(), {}, index_of(v["data_offsets"][0], where), index_of(v["data_offsets"][1], where)};
    for (const Json& d : v["shape"]) e.shape.push_back(index_of(d, where));
    names_.push_back(name);
    entries_.emplace(name, std::move(e));
  }
  std::sort(names_.begin(), names_.end(), [&](const std::string& a, const std::string& b) {
    const Entry &x = entries_.at(a), &y = entries_.at(b);
    return std::tie(x.begin, x.end, a) < std::tie(y.begin, y.end, b);
  });
  int64_t at = 0;
  for (const std::string& name : names_) {
    const Entry& e = entries_.at(name);
    check(e.begin == at && e.end >= e.begin, "{}: InvalidOffset: tensor {} spans {}..{}, the data before it ends at {}", path, name, e.begin,
          e.end, at);
    int64_t bits = kBits.at(e.dtype);
    for (int64_t d : e.shape) check(!__builtin_mul_overflow(bits, d, &bits), "{}: ValidationOverflow: tensor {} {}", path, name, to_string(e.shape));
    check(bits % 8 == 0, "{}: MisalignedSlice: tensor {} ends inside a byte", path, name);
    check(e.end - e.begin == bits / 8, "{}: TensorInvalidInfo: tensor {} {} {} needs {} bytes, has {}", path, name, e.dtype, to_string(e.shape),
          bits / 8, e.end - e.begin);
    at = e.end;
  }
  check(data_ + at == map_->size, "{}: MetadataIncompleteBuffer: the header describes {} bytes, the file has {}", path, data_ + at, map_->size);
}

Tensor SafetensorsFile::get(const std::string& name) const {
  auto it = entries_.find(name);
  check(it != entries_.end(), "{}: no tensor {}", path_, name);
  const Entry& e = it->second;
  for (int i = 0; i <= static_cast<int>(DType::BOOL); ++i) {
    DType t = static_cast<DType>(i);
    if (name_of(t) != e.dtype) continue;
    std::byte* p = map_->data + data_ + e.begin;
    if (reinterpret_cast<uintptr_t>(p) % size_of(t) == 0) return wrap(map_, p, e.shape, t);
    Tensor copy = empty(e.shape, t);
    std::memcpy(copy.data, p, e.end - e.begin);
    return copy;
  }
  fail("{}: tensor {} is {}, which is not supported", path_, name, e.dtype);
}

Checkpoint Checkpoint::open(const std::string& path) {
  Checkpoint c;
  c.path_ = path;
  check(fs::exists(path), "{}: no such file or folder", path);
  std::string index = path + "/model.safetensors.index.json", single = path + "/model.safetensors";
  if (!fs::is_directory(path)) single = path;
  if (!fs::is_directory(path) || (!fs::exists(index) && fs::exists(single))) {
    c.files_.push_back(std::make_shared<SafetensorsFile>(single));
    c.names_ = c.files_[0]->names();
    for (const std::string& n : c.names_) c.where_[n] = c.files_[0].get();
    return c;
  }
  check(fs::exists(index), "{}: has neither model.safetensors nor model.safetensors.index.json", path);
  Json j = read_json_file(index);
  check(j.is_object() && j.contains("weight_map") && j["weight_map"].is_object(), "{}: has no weight_map", index);
  std::map<std::string, SafetensorsFile*> opened;
  for (const auto& [name, v] : j["weight_map"].items()) {
    check(v.is_string(), "{}: weight_map.{} is not a file name", index, name);
    std::string file = v.get<std::string>();
    check(!file.empty() && file.find_first_of("/\\") == std::string::npos && file[0] != '.', "{}: weight_map.{}: \"{}\" is not a plain file name",
          index, name, file);
    if (!opened.count(file)) {
      check(fs::exists(path + "/" + file), "{}: shard {} is missing", path, file);
      c.files_.push_back(std::make_shared<SafetensorsFile>(path + "/" + file));
      opened[file] = c.files_.back().get();
    }
    check(opened[file]->has(name), "{}: tensor {} is not in {}", index, name, file);
    c.names_.push_back(name);
    c.where_[name] = opened[file];
  }
  for (const auto& [file, f] : opened)
    for (const std::string& n : f->names()) check(c.where_.count(n) && c.where_[n] == f, "{}: {} holds {}, which the index does not place there", index, file, n);
  return c;
}

Tensor Checkpoint::get(const std::string& name) const {
  auto it = where_.find(name);
  check(it != where_.end(), "{}: no tensor {}", path_, name);
  return it->second->get(name);
}

}  // namespace sutor
