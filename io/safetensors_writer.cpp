// Header, then tensors in the reference's order (dtype descending in its enum, then name), so that
// equal tensors give equal bytes. Shards as Hugging Face names them, with index.json. Test:
// tests/safetensors.cpp.

#include "io/safetensors_writer.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "io/json.h"

namespace sutor {
namespace {

// Position in the reference's dtype enum.
int rank_of(DType t) {
  switch (t) {
    case DType::BOOL:
      return 0;
    case DType::U8:
      return 1;
    case DType::I8:
      return 2;
    case DType::I16:
      return 3;
    case DType::F16:
      return 4;
    case DType::BF16:
      return 5;
    case DType::I32:
      return 6;
    case DType::F32:
      return 7;
    case DType::F64:
      return 8;
    case DType::I64:
      return 9;
    case DType::NF4:  // packed in memory only
    case DType::BLOCKS:
      break;
  }
  return -1;
}

std::vector<TensorSpec> sorted(std::vector<TensorSpec> specs, const std::string& path) {
  std::sort(specs.begin(), specs.end(), [](const TensorSpec& a, const TensorSpec& b) {
    int ra = rank_of(a.dtype), rb = rank_of(b.dtype);
    return ra != rb ? ra > rb : a.name < b.name;
  });
  std::map<std::string, int> seen;
  for (const TensorSpec& s : specs) {
    check(s.name != "__metadata__", "{}: no tensor may be called __metadata__", path);
    check(seen[s.name]++ == 0, "{}: tensor {} given twice", path, s.name);
  }
  return specs;
}

std::string quoted(const std::string& s, const std::string& path) {
  try {
    return Json(s).dump();
  } catch (const nlohmann::json::exception&) {
    fail("{}: a tensor name is not UTF-8", path);
  }
}

NamedTensors named(const NamedTensors& all, const std::vector<size_t>& pick) {
  NamedTensors out;
  for (size_t i : pick) out.push_back(all[i]);
  return out;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorSpec> specs,
                                     const Metadata& metadata)
    : path_(path), specs_(sorted(std::move(specs), path)), file_(path) {
  std::string header = R"({"__metadata__":{"format":"pt")";
  for (const auto& [key, value] : metadata)
    header += fmt::format(",{}:{}", quoted(key, path), quoted(value, path));
  header += '}';
  int64_t at = 0;
  for (const TensorSpec& s : specs_) {
    int64_t end = at + numel_of(s.shape) * size_of(s.dtype);
    header += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          quoted(s.name, path), name_of(s.dtype), fmt::join(s.shape, ","), at, end);
    at = end;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  check(header.size() <= 100'000'000, "{}: header of {} bytes, at most 100000000 allowed", path,
        header.size());
  uint64_t n = header.size();
  file_.write(&n, 8);
  file_.write(header.data(), header.size());
}

void SafetensorsWriter::write(const std::string& name, const Tensor& t) {
  check(next_ < specs_.size() && specs_[next_].name == name,
        "{}: tensor {} written out of order, {} expected", path_, name,
        next_ < specs_.size() ? specs_[next_].name : "nothing");
  const TensorSpec& s = specs_[next_++];
  check(t.dtype == s.dtype && t.shape == s.shape, "{}: tensor {} is {} {}, declared {} {}", path_,
        name, name_of(t.dtype), to_string(t.shape), name_of(s.dtype), to_string(s.shape));
  if (t.contiguous()) {
    file_.write(t.data, t.nbytes());
    return;
  }
  for (int64_t r = 0; r < t.rows(); ++r)
    file_.write(t.data + r * t.ld * size_of(t.dtype), t.cols() * size_of(t.dtype));
}

void SafetensorsWriter::commit() {
  check(next_ == specs_.size(), "{}: only {} of {} tensors written", path_, next_, specs_.size());
  file_.commit();
}

void save_safetensors(const std::string& path, const NamedTensors& tensors,
                      const Metadata& metadata) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const Tensor*> by_name;
  for (const auto& [name, t] : tensors) {
    specs.push_back({name, t.dtype, t.shape});
    by_name[name] = &t;
  }
  SafetensorsWriter w(path, std::move(specs), metadata);
  for (const TensorSpec& s : w.order()) w.write(s.name, *by_name.at(s.name));
  w.commit();
}

void write_checkpoint(const std::string& dir, const NamedTensors& tensors, uint64_t shard_bytes,
                      const Metadata& metadata) {
  std::vector<std::vector<size_t>> shards(1);
  uint64_t total = 0, filled = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    auto n = static_cast<uint64_t>(tensors[i].second.nbytes());
    if (!shards.back().empty() && filled + n > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(i);
    filled += n;
    total += n;
  }
  std::filesystem::path base = dir;
  if (shards.size() == 1)
    return save_safetensors((base / "model.safetensors").string(), tensors, metadata);
  std::map<std::string, std::string> weight_map;  // sorted, as the reference writes it
  for (size_t i = 0; i < shards.size(); ++i) {
    std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (size_t k : shards[i])
      check(weight_map.emplace(tensors[k].first, file).second, "{}: tensor {} given twice", dir,
            tensors[k].first);
    save_safetensors((base / file).string(), named(tensors, shards[i]), metadata);
  }
  Json index;
  index["metadata"]["total_size"] = total;
  nlohmann::json map = weight_map;  // the sorted kind: insertion is not linear
  std::string text = index.dump();
  text.pop_back();
  text += ",\"weight_map\":" + map.dump() + "}\n";
  write_file_atomic((base / "model.safetensors.index.json").string(), text);
}

}  // namespace sutor
