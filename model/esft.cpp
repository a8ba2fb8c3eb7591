#include "model/esft.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "io/file.h"
#include "io/json.h"

namespace sutor {
namespace fs = std::filesystem;

void ScoreAccumulator::add(int layer, const int32_t* ids, const float* weights, int64_t tokens, bool normalize) {
  if (tokens == 0) return;
  Layer& l = layers_[layer];
  l.count.resize(experts_);
  l.weight.resize(experts_);
  // Per sample, each sample counts as one token does when pooling.
  double unit = per_sample_ ? 1.0 / static_cast<double>(tokens) : 1.0;
  for (int64_t t = 0; t < tokens; ++t) {
    double sum = 0;
    for (int k = 0; k < top_k_; ++k) sum += weights[t * top_k_ + k];
    for (int k = 0; k < top_k_; ++k) {
      int32_t e = ids[t * top_k_ + k];
      check(e >= 0 && e < experts_, "layer {}: expert {} of {}", layer, e, experts_);
      l.count[e] += unit;
      l.weight[e] += unit * weights[t * top_k_ + k] / (normalize ? sum : 1.0);
    }
  }
  l.tokens += tokens;
  ++l.samples;
}

Scores ScoreAccumulator::scores() const {
  Scores s;
  for (const auto& [layer, l] : layers_) {
    double n = static_cast<double>(per_sample_ ? l.samples : l.tokens);
    auto &token = s.token[layer], &gate = s.gate[layer];
    for (int e = 0; e < experts_; ++e) {
      token.push_back(l.count[e] / (n * top_k_));
      gate.push_back(l.weight[e] / n);
    }
  }
  return s;
}

namespace {

constexpr std::string_view kRaw = "expert_weights_";

template <class T>
std::vector<T> numbers(std::string_view text, const std::string& where) {
  std::vector<T> out;
  const char *p = text.data(), *end = p + text.size();
  while (p < end) {
    T v{};
    auto [next, ec] = std::from_chars(p, end, v);
    check(ec == std::errc() && (next == end || *next == '\t'), "{}: '{}' is not a number", where, std::string(p, std::min(end, p + 12)));
    out.push_back(v);
    p = next == end ? next : next + 1;
  }
  return out;
}

void read_raw_layer(const std::string& file, int layer, int top_k, ScoreAccumulator& acc) {
  std::string text = read_file(file);
  std::string_view rest = text;
  for (int line = 1; !rest.empty(); ++line) {
    std::string where = fmt::format("{}:{}", file, line);
    size_t eol = rest.find('\n');
    std::string_view row = rest.substr(0, eol);
    rest = eol == std::string_view::npos ? std::string_view{} : rest.substr(eol + 1);
    size_t mid = row.find("\t\t");
    check(mid != std::string_view::npos, "{}: no two tabs between ids and weights", where);
    auto ids = numbers<int32_t>(row.substr(0, mid), where);
    auto weights = numbers<float>(row.substr(mid + 2), where);
    check(ids.size() == weights.size() && ids.size() % top_k == 0, "{}: {} ids and {} weights for top-{}", where, ids.size(), weights.size(), top_k);
    acc.add(layer, ids.data(), weights.data(), static_cast<int64_t>(ids.size()) / top_k);
  }
}

LayerScores read_layers(const Json& j, const char* key, const std::string& path) {
  LayerScores out;
  check(j.contains(key) && j[key].is_object(), "{}: {} is missing or no object", path, key);
  for (const auto& [layer, row] : j[key].items()) {
    int l = -1;
    auto [end, ec] = std::from_chars(layer.data(), layer.data() + layer.size(), l);
    check(ec == std::errc() && end == layer.data() + layer.size() && l >= 0 && row.is_object(), "{}: {}.{}: not a layer of scores", path, key, layer);
    auto& v = out[l];
    v.assign(row.size(), -1.0);
    for (const auto& [expert, x] : row.items()) {
      size_t e = 0;
      auto [stop, err] = std::from_chars(expert.data(), expert.data() + expert.size(), e);
      check(err == std::errc() && stop == expert.data() + expert.size() && e < v.size() && x.is_number(), "{}: {}.{}.{}: not an expert's score",
            path, key, layer, expert);
      v[e] = x.get<double>();
    }
  }
  check(!out.empty(), "{}: {} has no layers", path, key);
  return out;
}

}  // namespace

Scores scores_from_raw(const std::string& dir, int top_k, int experts, bool per_sample) {
  check(fs::is_directory(dir), "{}: no such folder", dir);
  ScoreAccumulator acc(experts, top_k, per_sample);
  int layers = 0;
  for (const auto& e : fs::directory_iterator(dir)) {
    std::string name = e.path().filename().string();
    if (!name.starts_with(kRaw) || !name.ends_with(".txt")) continue;
    int layer = -1;
    auto [end, ec] = std::from_chars(name.data() + kRaw.size(), name.data() + name.size() - 4, layer);
    check(ec == std::errc() && *end == '.', "{}: {} is not expert_weights_<layer>.txt", dir, name);
    read_raw_layer(e.path().string(), layer, top_k, acc);
    ++layers;
  }
  check(layers > 0, "{}: no expert_weights_<layer>.txt", dir);
  return acc.scores();
}

void write_scores(const std::string& path, const Scores& scores) {
  Json j;
  auto put = [&](const char* key, const LayerScores& s) {
    Json& out = j[key] = Json::object();
    for (const auto& [layer, v] : s) {
      Json& row = out[std::to_string(layer)] = Json::object();
      for (size_t e = 0; e < v.size(); ++e) row[std::to_string(e)] = std::stod(fmt::format("{:.4f}", v[e]));
    }
  };
  put("token_scores", scores.token);
  put("gate_scores", scores.gate);
  write_file_atomic(path, j.dump(4) + "\n");
}

Scores read_scores(const std::string& path) {
  Json j = read_json_file(path);
  return {read_layers(j, "token_scores", path), read_layers(j, "gate_scores", path)};
}

ExpertConfig select_experts(const LayerScores& scores, double top_p) {
  ExpertConfig c;
  for (const auto& [layer, v] : scores) {
    std::vector<int> order(v.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&v = v](int a, int b) { return v[a] > v[b]; });
    double sum = 0;
    auto& chosen = c.experts[layer];
    for (int e : order) {
      if (!chosen.empty() && sum >= top_p) break;
      chosen.push_back(e);
      sum += v[e];
    }
  }
  return c;
}

ExpertConfig randomize(const ExpertConfig& config, const LayerScores& scores, uint64_t seed) {
  ExpertConfig c = config;
  uint64_t state = seed;
  for (auto& [layer, ids] : c.experts) {
    std::vector<int> order(scores.at(layer).size());
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size() - 1; i > 0; --i) {
      uint64_t z = (state += 0x9e3779b97f4a7c15u);  // splitmix64
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      std::swap(order[i], order[(z ^ (z >> 31)) % (i + 1)]);
    }
    ids.assign(order.begin(), order.begin() + static_cast<int64_t>(ids.size()));
  }
  return c;
}

std::string to_json(const ExpertConfig& config) {
  Json j;
  j["experts"] = Json::object();
  for (const auto& [layer, ids] : config.experts) j["experts"][std::to_string(layer)] = ids;
  j["shared_experts"] = config.shared_experts;
  j["non_expert_modules"] = config.non_expert_modules;
  return j.dump() + "\n";
}

ExpertConfig read_expert_config(const std::string& path) {
  Json j = read_json_file(path);
  check(j.is_object() && j.contains("experts") && j["experts"].is_object(), "{}: has no map \"experts\"", path);
  for (const auto& [key, v] : j.items())
    check(key == "experts" || key == "shared_experts" || key == "non_expert_modules", "{}: unknown key {}; known: experts, shared_experts, non_expert_modules", path, key);
  ExpertConfig c;
  c.shared_experts = j.contains("shared_experts") && get<bool>(j, "shared_experts", path);
  c.non_expert_modules = j.contains("non_expert_modules") && get<bool>(j, "non_expert_modules", path);
  for (const auto& [layer, ids] : j["experts"].items()) {
    int l = -1;
    auto [end, ec] = std::from_chars(layer.data(), layer.data() + layer.size(), l);
    check(ec == std::errc() && end == layer.data() + layer.size() && l >= 0, "{}: experts.{}: not a layer number", path, layer);
    check(ids.is_array(), "{}: experts.{}: not a list of expert ids", path, layer);
    std::set<int> seen;
    for (const Json& v : ids) {
      check(v.is_number_integer() && v.get<int64_t>() >= 0 && v.get<int64_t>() < (1 << 20), "{}: experts.{}: {} is not an expert id", path, layer, v.dump());
      check(seen.insert(v.get<int>()).second, "{}: experts.{}: expert {} is listed twice", path, layer, v.get<int>());
      c.experts[l].push_back(v.get<int>());
    }
  }
  return c;
}

void check_expert_config(const ExpertConfig& config, const std::vector<int>& moe_layers, int64_t experts, const std::string& where) {
  for (const auto& [layer, ids] : config.experts) {
    check(std::find(moe_layers.begin(), moe_layers.end(), layer) != moe_layers.end(),
          "{}: layer {} is no MoE layer of this model (they are {}..{}, counted from 0)", where, layer, moe_layers.front(), moe_layers.back());
    for (int e : ids) check(e < experts, "{}: layer {}: expert {} of {} (0..{})", where, layer, e, experts, experts - 1);
  }
}

std::vector<std::string> trainable_globs(const ExpertConfig& config) {
  std::vector<std::string> out;
  for (const auto& [layer, ids] : config.experts)
    for (int e : ids) out.push_back(fmt::format("model.layers.{}.mlp.experts.{}.*", layer, e));
  if (config.shared_experts) out.push_back("model.layers.*.mlp.shared_experts.*");
  if (config.non_expert_modules)
    for (const char* g : {"model.embed_tokens.*", "model.layers.*.self_attn.*", "model.layers.*norm.weight", "model.norm.weight",
                          "model.layers.*.mlp.gate.weight", "model.layers.*.mlp.gate_proj.weight", "lm_head.weight"})
      out.push_back(g);
  return out;
}

}  // namespace sutor
