// Reads the header (u64 length, JSON), checks it in the order and with the error names of the
// reference (huggingface/safetensors), and hands out views into the mapped file. Test:
// tests/safetensors.cpp (a table of corruptions), tests/fuzz/safetensors.cpp.

#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "io/json.h"
#include "io/utf8.h"

namespace sutor {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;

struct FileType {
  std::string_view name;
  int bits;
};
constexpr FileType kTypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64}};

int bits_of(std::string_view name) {
  for (const FileType& t : kTypes)
    if (t.name == name) return t.bits;
  return 0;
}

TensorInfo parse_info(const std::string& name, const Json& j, const std::string& where) {
  TensorInfo t;
  t.name = name;
  std::string at = where + ": tensor " + name;
  t.dtype = get<std::string>(j, "dtype", at);
  check(bits_of(t.dtype) != 0, "{}: unknown dtype \"{}\"", at, t.dtype);
  auto numbers = [&](const char* key) {
    Json a = get<Json>(j, key, at);
    check(a.is_array(), "{}: key \"{}\" must be an array, found {}", at, key, a.type_name());
    std::vector<uint64_t> out;
    for (const Json& v : a) {
      check(v.is_number_unsigned(), "{}: key \"{}\" must hold integers >= 0, found {}", at, key,
            v.is_number() ? v.dump() : v.type_name());
      out.push_back(v.get<uint64_t>());
    }
    return out;
  };
  for (uint64_t d : numbers("shape")) {
    check(std::in_range<int64_t>(d), "{}: dimension {} is too large", at, d);
    t.shape.push_back(static_cast<int64_t>(d));
  }
  auto offsets = numbers("data_offsets");
  check(offsets.size() == 2, "{}: data_offsets must have 2 entries, found {}", at, offsets.size());
  t.begin = offsets[0];
  t.end = offsets[1];
  return t;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : WeightFile(path) {
  const MappedFile& m = *map_;
  check(m.size >= 8, "{}: HeaderTooSmall: the file has {} bytes, at least 8 needed", path, m.size);
  uint64_t n = 0;
  std::memcpy(&n, m.data, 8);
  check(n <= kMaxHeader, "{}: HeaderTooLarge: {} bytes, at most {} allowed", path, n, kMaxHeader);
  check(n <= m.size - 8, "{}: InvalidHeaderLength: header of {} bytes in a file of {}", path, n,
        m.size);
  std::string_view text(reinterpret_cast<const char*>(m.data) + 8, n);
  check(is_utf8(text), "{}: InvalidHeader: not UTF-8", path);
  std::string where = path + ": InvalidHeaderDeserialization";
  check(!text.empty() && text[0] == '{', "{}: the header must start with '{{'", where);
  Json header = parse_json(text, where, 8, kMaxHeader);
  std::vector<TensorInfo> infos;
  for (const auto& [key, value] : header.items()) {
    if (key != "__metadata__") {
      infos.push_back(parse_info(key, value, where));
      continue;
    }
    check(value.is_object(), "{}: __metadata__ must be an object, found {}", where,
          value.type_name());
    for (const auto& [k, v] : value.items()) {
      check(v.is_string(), "{}: __metadata__ \"{}\" must be a string, found {}", where, k,
            v.type_name());
      metadata_[k] = v.get<std::string>();
    }
  }
  std::stable_sort(infos.begin(), infos.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  for (const TensorInfo& t : infos) {
    check(t.begin == total_ && t.end >= t.begin,
          "{}: InvalidOffset: tensor {} at {}..{}, expected to begin at {}", path, t.name, t.begin,
          t.end, total_);
    uint64_t bits = 1;
    bool ok = true;
    for (int64_t d : t.shape)
      ok = ok && !__builtin_mul_overflow(bits, static_cast<uint64_t>(d), &bits);
    ok = ok && !__builtin_mul_overflow(bits, static_cast<uint64_t>(bits_of(t.dtype)), &bits);
    check(ok, "{}: ValidationOverflow: tensor {} of shape {}", path, t.name, to_string(t.shape));
    check(bits % 8 == 0, "{}: MisalignedSlice: tensor {} has {} bits", path, t.name, bits);
    check(t.end - t.begin == bits / 8,
          "{}: TensorInvalidInfo: tensor {} {} {} needs {} bytes, has {}", path, t.name, t.dtype,
          to_string(t.shape), bits / 8, t.end - t.begin);
    total_ = t.end;
  }
  data_at_ = 8 + n;
  check(total_ == m.size - data_at_,
        "{}: MetadataIncompleteBuffer: the header describes {} bytes of data, the file has {}",
        path, total_, m.size - data_at_);
  for (TensorInfo& t : infos) add(std::move(t));
}

Tensor SafetensorsFile::get(const std::string& name) const {
  const TensorInfo& t = info(name);
  auto dtype = t.dtype == "F8_E4M3" ? DType::U8 : dtype_named(t.dtype);  // its bytes
  check(dtype.has_value(), "{}: tensor {} has dtype {}, which is not supported", path(), name,
        t.dtype);
  return mapped(data_at_ + t.begin, t.shape, *dtype);
}

}  // namespace sutor
