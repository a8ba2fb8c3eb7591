#include "io/safetensors_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "io/file.h"
#include "io/json.h"

namespace sutor {
namespace {

// Position of our types in the reference's dtype order; files list the highest first.
int rank_of(DType t) {
  switch (t) {
    case DType::BOOL: return 0;
    case DType::U8: return 4;
    case DType::I8: return 5;
    case DType::I16: return 11;
    case DType::F16: return 13;
    case DType::BF16: return 14;
    case DType::I32: return 15;
    case DType::F32: return 17;
    case DType::F64: return 19;
    case DType::I64: return 20;
  }
  return 0;
}

NamedTensors ordered(NamedTensors t) {
  std::sort(t.begin(), t.end(), [](const auto& a, const auto& b) {
    int x = rank_of(a.second.dtype), y = rank_of(b.second.dtype);
    return x != y ? x > y : a.first < b.first;
  });
  for (size_t i = 1; i < t.size(); ++i) check(t[i].first != t[i - 1].first, "tensor {} is given twice", t[i].first);
  return t;
}

}  // namespace

void save_safetensors(const std::string& path, const NamedTensors& unordered) {
  NamedTensors tensors = ordered(unordered);
  Json header = Json::object();
  header["__metadata__"] = {{"format", "pt"}};
  int64_t at = 0;
  for (const auto& [name, t] : tensors) {
    Json& e = header[name];
    e["dtype"] = std::string(name_of(t.dtype));
    e["shape"] = t.shape;
    e["data_offsets"] = {at, at + t.nbytes()};
    at += t.nbytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string temp = fmt::format("{}.tmp-{}", path, getpid());
  try {
    FileWriter w(temp);
    uint64_t n = text.size();
    w.write(&n, 8);
    w.write(text.data(), static_cast<int64_t>(n));
    for (const auto& [name, t] : tensors) {
      if (t.contiguous()) {
        w.write(t.data, t.nbytes());
      } else {
        int64_t b = size_of(t.dtype);
        for (int64_t r = 0; r < t.rows(); ++r) w.write(t.data + r * t.ld * b, t.cols() * b);
      }
    }
    w.close();
    check(std::rename(temp.c_str(), path.c_str()) == 0, "{}: cannot be put in place", path);
  } catch (const Error& e) {
    unlink(temp.c_str());
    std::string what = e.what();
    throw Error(what.starts_with(temp) ? path + what.substr(temp.size()) : what);
  }
}

void write_checkpoint(const std::string& dir, const NamedTensors& tensors, int64_t shard_bytes) {
  std::vector<NamedTensors> shards(1);
  int64_t size = 0, total = 0;
  for (const auto& nt : tensors) {
    if (size > 0 && size + nt.second.nbytes() > shard_bytes) {
      shards.emplace_back();
      size = 0;
    }
    shards.back().push_back(nt);
    size += nt.second.nbytes();
    total += nt.second.nbytes();
  }
  if (shards.size() == 1) return save_safetensors(dir + "/model.safetensors", tensors);
  Json index{{"metadata", {{"total_size", total}}}, {"weight_map", Json::object()}};
  for (size_t i = 0; i < shards.size(); ++i) {
    std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    save_safetensors(dir + "/" + file, shards[i]);
    for (const auto& nt : shards[i]) index["weight_map"][nt.first] = file;
  }
  write_file_atomic(dir + "/model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace sutor
