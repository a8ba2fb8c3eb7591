// The parts common to all weight formats, and checkpoints: one file, or an index.json over shards,
// which may only be plain file names. The format of a file is told by its first bytes. Test:
// tests/safetensors.cpp, tests/fuzz/index.cpp.

#include "io/weights.h"

#include <cstring>
#include <filesystem>
#include <set>

#include "io/gguf.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/torch_file.h"

namespace sutor {
namespace fs = std::filesystem;

std::optional<DType> dtype_named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::BOOL); ++i)
    if (name_of(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  return std::nullopt;
}

size_t WeightFile::index_of(const std::string& name) const {
  auto it = index_.find(name);
  check(it != index_.end(), "{}: no tensor {}", path(), name);
  return it->second;
}

const TensorInfo& WeightFile::info(const std::string& name) const { return infos_[index_of(name)]; }

void WeightFile::add(TensorInfo info) {
  check(index_.emplace(info.name, infos_.size()).second, "{}: tensor {} is there twice", path(),
        info.name);
  names_.push_back(info.name);
  infos_.push_back(std::move(info));
}

Tensor WeightFile::mapped(uint64_t at, const Shape& shape, DType dtype) const {
  auto* p = const_cast<std::byte*>(map_->data + at);
  if (reinterpret_cast<uintptr_t>(p) % size_of(dtype) == 0) return wrap(map_, p, shape, dtype);
  Tensor copy = empty(shape, dtype);  // files of others need not align their data
  std::memcpy(copy.data, p, copy.nbytes());
  return copy;
}

namespace {

// By content: an adapter's or a shard's name may say nothing.
std::shared_ptr<const WeightFile> open_file(const std::string& path) {
  switch (MappedFile m(path); format_of(m)) {
    case WeightFormat::kGguf:
      return std::make_shared<GgufFile>(path);
    case WeightFormat::kTorch:
      return std::make_shared<TorchFile>(path);
    default:
      return std::make_shared<SafetensorsFile>(path);
  }
}

const char* kWhole[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                        "pytorch_model.bin.index.json"};

}  // namespace

WeightFormat format_of(const MappedFile& m) {
  auto begins = [&m](std::string_view magic) {
    return m.size >= magic.size() && std::memcmp(m.data, magic.data(), magic.size()) == 0;
  };
  std::string ext = fs::path(m.path).extension().string();
  if (begins("GGUF") || ext == ".gguf") return WeightFormat::kGguf;
  if (begins("PK\x03\x04") || ext == ".bin" || ext == ".pt" || ext == ".pth")
    return WeightFormat::kTorch;
  return WeightFormat::kSafetensors;
}

std::string weights_of_folder(const std::string& folder) {
  std::error_code ec;
  for (const char* name : kWhole)
    if (fs::exists(fs::path(folder) / name, ec)) return (fs::path(folder) / name).string();
  std::vector<fs::path> found;
  for (fs::directory_iterator it(folder, ec), last; !ec && it != last; it.increment(ec))
    if (it->path().extension() == ".safetensors") found.push_back(it->path());
  check(!ec, "{}: cannot list: {}", folder, ec.message());
  check(found.size() <= 1, "{}: no {}, and {} *.safetensors (1 allowed)", folder,
        fmt::join(kWhole, ", "), found.size());
  return found.empty() ? "" : found[0].string();
}

const WeightFile& Checkpoint::file(const std::string& name) const {
  auto it = owner_.find(name);
  check(it != owner_.end(), "{}: no tensor {}", path_, name);
  return *files_[it->second];
}

std::vector<std::string> Checkpoint::files() const {
  std::vector<std::string> paths;
  for (const auto& f : files_) paths.push_back(f->path());
  return paths;
}

std::string Checkpoint::metadata(const std::string& key) const {
  const auto* file = dynamic_cast<const SafetensorsFile*>(files_.front().get());
  if (file == nullptr || file->metadata().count(key) == 0) return "";
  return file->metadata().at(key);
}

void Checkpoint::add(const std::string& path, const std::map<std::string, std::string>* weight_map,
                     const std::string& file_name) {
  files_.push_back(open_file(path));
  const WeightFile& f = *files_.back();
  for (const std::string& name : f.names()) {
    if (weight_map != nullptr) {
      auto it = weight_map->find(name);
      if (it == weight_map->end()) {
        unlisted_.emplace_back(name, file_name);
        continue;
      }
      check(it->second == file_name, "{}: tensor {} is also here, the index puts it in {}", path,
            name, it->second);
    }
    owner_[name] = files_.size() - 1;
    names_.push_back(name);
    total_ += f.info(name).end - f.info(name).begin;
  }
}

void Checkpoint::add_indexed(const std::string& where) {
  std::error_code ec;
  Json root = read_json_file(where);
  Json weights = sutor::get<Json>(root, "weight_map", where);
  check(weights.is_object(), "{}: key \"weight_map\" must be an object, found {}", where,
        weights.type_name());
  std::map<std::string, std::string> weight_map;
  std::set<std::string> shards;
  for (const auto& [name, v] : weights.items()) {
    check(v.is_string(), "{}: weight_map \"{}\" must be a string, found {}", where, name,
          v.type_name());
    std::string f = v.get<std::string>();
    check(!f.empty() && f != "." && f != ".." &&
              f.find_first_of(std::string_view("/\\\0", 3)) == f.npos,
          "{}: weight_map \"{}\": \"{}\" is not a plain file name", where, name, f);
    weight_map[name] = f;
    shards.insert(f);
  }
  for (const std::string& f : shards) {
    fs::path shard = fs::path(where).parent_path() / f;
    check(fs::exists(shard, ec), "{}: shard {} is missing", where, f);
    add(shard.string(), &weight_map, f);
  }
  for (const auto& [name, f] : weight_map)
    check(has(name), "{}: tensor {} is not in its shard {}", where, name, f);
  // Whether they belong to the model is not ours to guess.
  if (!unlisted_.empty())
    fail("{}: tensor {} of {} is not in weight_map", where, unlisted_[0].first,
         unlisted_[0].second);
}

Checkpoint Checkpoint::open(const std::string& path) {
  Checkpoint c;
  c.path_ = path;
  std::error_code ec;
  std::string first = path;
  if (fs::is_directory(path, ec)) {
    first = weights_of_folder(path);
    check(!first.empty(), "{}: no {}, and no *.safetensors", path, fmt::join(kWhole, ", "));
  }
  if (fs::path(first).extension() == ".json")
    c.add_indexed(first);
  else
    c.add(first, nullptr, "");
  return c;
}

}  // namespace sutor
