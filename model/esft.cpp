#include "model/esft.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "engine/random.h"
#include "io/file.h"
#include "io/json.h"
#include "model/names.h"

namespace sutor {
namespace fs = std::filesystem;

template <class W>
void ScoreAccumulator::add(int layer, const int32_t* ids, const W* weights, int64_t tokens,
                           bool normalize) {
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
      l.weight[e] += unit * weights[t * top_k_ + k] / (normalize && sum > 0 ? sum : 1.0);
    }
  }
  l.tokens += tokens;
  ++l.samples;
}

template void ScoreAccumulator::add(int, const int32_t*, const float*, int64_t, bool);
template void ScoreAccumulator::add(int, const int32_t*, const double*, int64_t, bool);

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

// The whole of `text` as a number in its one usual spelling: no sign of plus, no leading zeros, no
// blanks.
template <class T>
bool parse_whole(std::string_view text, T& v) {
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (ec != std::errc() || end != text.data() + text.size()) return false;
  if constexpr (std::is_integral_v<T>) return fmt::format("{}", v) == text;
  return true;
}

template <class T>
std::vector<T> numbers(std::string_view text, const std::string& where, const char* what) {
  std::vector<T> out;
  for (size_t from = 0; from <= text.size();) {
    size_t tab = std::min(text.find('\t', from), text.size());
    std::string_view item = text.substr(from, tab - from);
    T v{};
    check(parse_whole(item, v), "{}: {} {} is '{}', not a number", where, what, out.size() + 1,
          item.substr(0, 20));
    out.push_back(v);
    from = tab + 1;
  }
  return out;
}

// round(x, 4) and repr() of Python: at most 4 decimals, at least one, no trailing zeros ("0.026",
// "0.0").
std::string four_decimals(double x) {
  std::string s = fmt::format("{:.4f}", x);
  while (s.back() == '0' && s[s.size() - 2] != '.') s.pop_back();
  return s;
}

// Returns how many tokens each sample had: all layers must agree.
std::vector<int64_t> read_raw_layer(const std::string& file, int layer, int top_k, int experts,
                                    ScoreAccumulator& acc) {
  std::string text = read_file(file);
  check(!text.empty(), "{}: is empty", file);
  std::string_view rest = text;
  std::vector<int64_t> samples;
  while (!rest.empty()) {
    std::string where = fmt::format("{}:{}", file, samples.size() + 1);
    size_t eol = rest.find('\n');
    check(eol != std::string_view::npos, "{}: the last line has no end: is the file cut off?",
          where);
    std::string_view row = rest.substr(0, eol);
    rest = rest.substr(eol + 1);
    size_t mid = row.find("\t\t");
    check(mid != std::string_view::npos, "{}: no two tabs between ids and weights", where);
    auto ids = numbers<int32_t>(row.substr(0, mid), where, "id");
    auto weights = numbers<double>(row.substr(mid + 2), where, "weight");
    check(ids.size() == weights.size() && ids.size() % top_k == 0,
          "{}: {} ids and {} weights for top-{}", where, ids.size(), weights.size(), top_k);
    for (size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0 && ids[i] < experts, "{}: id {} is {}, not in 0..{}", where, i + 1, ids[i],
            experts - 1);
      check(std::isfinite(weights[i]) && weights[i] >= 0,
            "{}: weight {} is {}, not a finite number >= 0", where, i + 1, weights[i]);
      size_t first = i - i % top_k;
      check(std::find(ids.begin() + first, ids.begin() + i, ids[i]) == ids.begin() + i,
            "{}: token {} has expert {} twice: is top-k not {}?", where, i / top_k + 1, ids[i],
            top_k);
    }
    samples.push_back(static_cast<int64_t>(ids.size()) / top_k);
    acc.add(layer, ids.data(), weights.data(), samples.back());
  }
  return samples;
}

LayerScores read_layers(const Json& j, const char* key, const std::string& path) {
  LayerScores out;
  check(j.contains(key) && j[key].is_object(), "{}: {} is missing or no object", path, key);
  for (const auto& [layer, row] : j[key].items()) {
    int l = -1;
    check(parse_whole(layer, l) && l >= 0 && row.is_object() && !row.empty(),
          "{}: {}.{}: not a layer of scores", path, key, layer);
    auto& v = out[l];
    v.assign(row.size(), -1.0);
    for (const auto& [expert, x] : row.items()) {
      size_t e = 0;
      check(parse_whole(expert, e) && e < v.size(), "{}: {}.{}.{}: not an expert of 0..{}", path,
            key, layer, expert, v.size() - 1);
      check(x.is_number() && std::isfinite(x.get<double>()) && x.get<double>() >= 0,
            "{}: {}.{}.{}: {} is not a score >= 0", path, key, layer, expert, x.dump());
      v[e] = x.get<double>();
    }
  }
  check(!out.empty(), "{}: {} has no layers", path, key);
  return out;
}

}  // namespace

Scores scores_from_raw(const std::string& dir, int top_k, int experts, bool per_sample) {
  check(fs::is_directory(dir), "{}: no such folder", dir);
  check(top_k >= 1 && experts >= top_k, "top-k {} of {} experts", top_k, experts);
  ScoreAccumulator acc(experts, top_k, per_sample);
  std::map<int, std::string> files;
  for (const auto& e : fs::directory_iterator(dir)) {
    std::string name = e.path().filename().string();
    if (!name.starts_with(kRaw)) continue;  // the published folders also hold summary.json
    int layer = -1;
    check(name.ends_with(".txt") &&
              parse_whole(std::string_view(name).substr(kRaw.size(), name.size() - kRaw.size() - 4),
                          layer) &&
              layer >= 0,
          "{}: {} is not expert_weights_<layer>.txt", dir, name);
    files[layer] = e.path().string();
  }
  check(!files.empty(), "{}: no expert_weights_<layer>.txt", dir);
  std::vector<int64_t> first;
  for (const auto& [layer, file] : files) {
    std::vector<int64_t> samples = read_raw_layer(file, layer, top_k, experts, acc);
    if (first.empty()) first = samples;
    check(samples.size() == first.size(), "{}: {} samples, {} has {}", file, samples.size(),
          files.begin()->second, first.size());
    for (size_t i = 0; i < samples.size(); ++i)
      check(samples[i] == first[i], "{}:{}: {} tokens, {} has {} there", file, i + 1, samples[i],
            files.begin()->second, first[i]);
  }
  return acc.scores();
}

std::string raw_line(const int32_t* ids, const float* weights, int64_t n) {
  std::string s;
  for (int64_t i = 0; i < n; ++i) s += fmt::format("{}\t", ids[i]);
  for (int64_t i = 0; i < n; ++i) s += '\t' + four_decimals(weights[i]);
  return s + '\n';
}

namespace {

// {"1": item, "10": item, "2": item}: layers in the order of their text, ", " and ": " between, as
// Python's json.dumps wrote them.
template <class V>
std::string layers_json(const std::map<int, V>& layers, auto item) {
  std::map<std::string, const V*> sorted;
  for (const auto& [layer, v] : layers) sorted[std::to_string(layer)] = &v;
  std::string s;
  for (const auto& [layer, v] : sorted)
    s += fmt::format("{}\"{}\": {}", s.empty() ? "{" : ", ", layer, item(*v));
  return s.empty() ? "{}" : s + "}";
}

}  // namespace

void write_scores(const std::string& path, const Scores& scores) {
  auto row = [](const std::vector<double>& v) {
    std::string s;
    for (size_t e = 0; e < v.size(); ++e)
      s += fmt::format("{}\"{}\": {}", e ? ", " : "", e, four_decimals(v[e]));
    return "{" + s + "}";
  };
  write_file_atomic(path, "{\"token_scores\": " + layers_json(scores.token, row) +
                              ", \"gate_scores\": " + layers_json(scores.gate, row) + "}");
}

Scores read_scores(const std::string& path) {
  Json j = read_json_file(path);
  return {read_layers(j, "token_scores", path), read_layers(j, "gate_scores", path)};
}

ExpertConfig select_experts(const LayerScores& scores, double top_p) {
  check(top_p >= 0, "top-p is {}, not a number >= 0", top_p);
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
      std::swap(order[i], order[next_random(state) % (i + 1)]);
    }
    ids.assign(order.begin(), order.begin() + static_cast<int64_t>(ids.size()));
  }
  return c;
}

std::string to_json(const ExpertConfig& config) {
  return fmt::format("{{\"experts\": {}, \"shared_experts\": {}, \"non_expert_modules\": {}}}",
                     layers_json(config.experts,
                                 [](const std::vector<int>& ids) {
                                   return fmt::format("[{}]", fmt::join(ids, ", "));
                                 }),
                     config.shared_experts, config.non_expert_modules);
}

ExpertConfig read_expert_config(const std::string& path, bool one_indexed) {
  Json j = read_json_file(path);
  check(j.is_object() && j.contains("experts") && j["experts"].is_object(),
        "{}: has no map \"experts\"", path);
  for (const auto& [key, v] : j.items())
    check(key == "experts" || key == "shared_experts" || key == "non_expert_modules",
          "{}: unknown key {}; known: experts, shared_experts, non_expert_modules", path, key);
  ExpertConfig c;
  c.shared_experts = j.contains("shared_experts") && get<bool>(j, "shared_experts", path);
  c.non_expert_modules =
      j.contains("non_expert_modules") && get<bool>(j, "non_expert_modules", path);
  for (const auto& [layer, ids] : j["experts"].items()) {
    int l = -1;
    check(parse_whole(layer, l) && l >= 0, "{}: experts.{}: not a layer number", path, layer);
    check(!one_indexed || l > 0, "{}: experts.{}: with --one-indexed layers count from 1", path,
          layer);
    l -= one_indexed ? 1 : 0;
    check(ids.is_array(), "{}: experts.{}: not a list of expert ids", path, layer);
    std::set<int> seen;
    c.experts[l];  // a layer with no ids trains none
    for (const Json& v : ids) {
      check(v.is_number_integer() && v.get<int64_t>() >= 0 && v.get<int64_t>() < (1 << 20),
            "{}: experts.{}: {} is not an expert id", path, layer, v.dump());
      check(seen.insert(v.get<int>()).second, "{}: experts.{}: expert {} is listed twice", path,
            layer, v.get<int>());
      c.experts[l].push_back(v.get<int>());
    }
  }
  return c;
}

namespace {

// "1..26", "0, 2..5"
std::string ranges(const std::vector<int>& sorted) {
  std::string s;
  for (size_t i = 0; i < sorted.size();) {
    size_t j = i;
    while (j + 1 < sorted.size() && sorted[j + 1] == sorted[j] + 1) ++j;
    s += s.empty() ? "" : ", ";
    s += i == j ? std::to_string(sorted[i]) : fmt::format("{}..{}", sorted[i], sorted[j]);
    i = j + 1;
  }
  return s;
}

}  // namespace

void check_expert_config(const ExpertConfig& config, const std::vector<int>& moe_layers,
                         int64_t experts, const std::string& where, bool has_option) {
  check(!moe_layers.empty(), "{}: names experts, but the model is dense: it has none", where);
  auto is_moe = [&](int l) { return std::binary_search(moe_layers.begin(), moe_layers.end(), l); };
  std::vector<int> alien;
  bool shifted = true;  // every layer fits when counted from 1
  for (const auto& [layer, ids] : config.experts) {
    if (!is_moe(layer)) alien.push_back(layer);
    shifted = shifted && is_moe(layer - 1);
  }
  check(alien.empty(),
        "{}: experts names layers {}, which are no MoE layers of this model (they are {}, counted "
        "from 0){}",
        where, fmt::join(alien, ", "), ranges(moe_layers),
        !shifted     ? ""
        : has_option ? "; counted from 1 all its layers fit: --one-indexed"
                     : "; counted from 1 all its layers fit: subtract 1 from each in the file");
  for (const auto& [layer, ids] : config.experts) {
    for (int e : ids)
      check(e < experts, "{}: layer {}: expert {} of {} (0..{})", where, layer, e, experts,
            experts - 1);
  }
}

bool trains(const ExpertConfig& config, std::string_view name) {
  if (name.find(".lora_") != name.npos) return false;
  Role role = role_of(name);
  if (role.part == Part::kSharedExpert) return config.shared_experts;
  if (role.part != Part::kExpert) return config.non_expert_modules;
  auto it = config.experts.find(role.layer);
  return it != config.experts.end() &&
         std::find(it->second.begin(), it->second.end(), role.expert) != it->second.end();
}

}  // namespace sutor
