#include "apps/run_record.h"

#include <xxhash.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "io/file.h"
#include "io/weights.h"
#include "model/gguf.h"
#include "model/peft.h"
#include "model/pesc_adapter.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

template <class T>
bool parse(const std::string& s, T& v) {
  auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), v);
  return ec == std::errc() && end == s.data() + s.size();
}

Json typed(const std::string& s) {
  int64_t i = 0;
  double d = 0;
  if (s == "true" || s == "false") return s == "true";
  if (parse(s, i)) return i;
  if (parse(s, d)) return d;
  return s;
}

Json config_of(const Args& a) {
  Json j = Json::object();
  for (const auto& kv : YAML::Load(a.yaml())) {
    Json& v = j[kv.first.Scalar()];
    if (kv.second.IsSequence())
      for (const auto& item : kv.second) v.push_back(item.Scalar());
    else
      v = typed(kv.second.Scalar());
  }
  return j;
}

std::string hex(XXH128_hash_t h) { return fmt::format("{:016x}{:016x}", h.high64, h.low64); }

std::string hash_sampled(const std::string& path, uint64_t size) {
  constexpr uint64_t kFirst = 1 << 20, kBlock = 1 << 16, kBlocks = 256;
  std::ifstream f(path, std::ios::binary);
  std::string all(kFirst + kBlocks * kBlock, 0);
  char* to = all.data();
  auto take = [&](uint64_t at, uint64_t n) {
    f.seekg(static_cast<std::streamoff>(at));
    f.read(to, static_cast<std::streamsize>(n));
    check(f.good(), "{}: cannot be read", path);
    to += n;
  };
  take(0, kFirst);
  for (uint64_t i = 1; i <= kBlocks; ++i)
    take(kFirst + (size - kFirst - kBlock) * i / kBlocks, kBlock);
  return hex(XXH3_128bits(all.data(), all.size()));
}

}  // namespace

std::string hash_weights(const std::string& dir) {
  std::map<std::string, std::string> files;  // name -> path
  auto add = [&](const fs::path& path) { files[path.filename().string()] = path.string(); };
  if (is_gguf(dir)) {
    for (const auto& part : open_gguf_parts(dir)) add(part->path());
  } else {
    for (const auto& e : fs::directory_iterator(dir)) {
      std::string ext = e.path().extension().string();
      for (const char* known : {".json", ".jinja", ".model", ".txt", ".tiktoken"})
        if (ext == known && e.is_regular_file()) add(e.path());
    }
    const bool pesc = is_pesc_adapter(dir);
    const std::string peft = pesc ? pesc_lora(dir) : dir;
    const bool lora = fs::exists(peft + "/adapter_config.json");
    if (pesc) add(moe_weights(dir));
    for (const std::string& path : Checkpoint::open(lora ? peft_weights(peft) : dir).files())
      add(path);
  }
  std::string list;
  for (const auto& [name, path] : files) {
    uint64_t size = fs::file_size(path);
    list += fmt::format("{} {} {}\n", name, size,
                        size > (64 << 20) ? hash_sampled(path, size) : hash_file(path));
  }
  return hex(XXH3_128bits(list.data(), list.size()));
}

RunRecord record_of(const Args& a) {
  RunRecord r;
  r.config = config_of(a);
  r.data_hash = hash_file(a.str("data"));
  r.model_hash = hash_weights(a.str("MODEL"));
  r.binary_hash = hash_file("/proc/self/exe");
  std::set<std::string> elsewhere{"MODEL",
                                  "data",
                                  "adapter",
                                  "experts",
                                  "out",
                                  "save-every",
                                  "resume",
                                  "threads",
                                  "recompute",
                                  "quiet",
                                  "eval-data",
                                  "json",
                                  "verbose",
                                  "eval-every",
                                  "keep-checkpoints",
                                  "max-memory",
                                  "weights",
                                  "save-minutes",
                                  "keep-best",
                                  "ep",
                                  "expert-scores",
                                  "ranks-as-threads",
                                  "comm-timeout"};
  if (a.str("schedule") == "constant") elsewhere.insert("steps");
  for (const auto& [key, value] : r.config.items())
    if (elsewhere.count(key) == 0) r.identity += fmt::format("{}={}\n", key, value.dump());
  r.identity += fmt::format("data={}\nmodel={}\n", r.data_hash, r.model_hash);
  if (a.given("experts")) r.identity += fmt::format("experts={}\n", hash_file(a.str("experts")));
  std::string adapters;
  for (const std::string& dir : a.all("adapter")) adapters += " " + hash_weights(dir);
  if (!adapters.empty()) r.identity += fmt::format("adapter={}\n", adapters);
  return r;
}

}  // namespace sutor
