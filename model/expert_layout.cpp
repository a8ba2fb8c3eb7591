#include "model/expert_layout.h"

#include <algorithm>
#include <cstring>

#include "engine/dry_run.h"

namespace sutor {
namespace {

constexpr std::string_view kPlain[] = {"gate_proj", "up_proj", "down_proj"},
                           kMixtral[] = {"w1", "w3", "w2"};
constexpr std::string_view kExperts = ".experts.", kMlp = ".mlp", kBlock = ".block_sparse_moe",
                           kAdapters = ".mlp.moe_adapter", kAdapter = "expert_";

enum class Piece { kWhole, kGate, kUp, kDown };

struct Slice {
  std::string source;
  Piece part = Piece::kWhole;
  int64_t expert = 0;
  bool transposed = false;
};

// [R,C] of any type as [C,R].
Tensor transpose(const Tensor& t) {
  Tensor out = empty({t.dim(1), t.dim(0)}, t.dtype);
  if (dry_run()) return out;
  constexpr int64_t kTile = 32;
  int64_t R = t.dim(0), C = t.dim(1);
  auto copy = [&](auto zero) {
    using T = decltype(zero);
    auto* from = reinterpret_cast<const T*>(t.data);
    auto* to = reinterpret_cast<T*>(out.data);
    for (int64_t r0 = 0; r0 < R; r0 += kTile)
      for (int64_t c0 = 0; c0 < C; c0 += kTile)
        for (int64_t r = r0; r < std::min(R, r0 + kTile); ++r)
          for (int64_t c = c0; c < std::min(C, c0 + kTile); ++c) to[c * R + r] = from[r * t.ld + c];
  };
  switch (size_of(t.dtype)) {
    case 1:
      copy(uint8_t{});
      break;
    case 2:
      copy(uint16_t{});
      break;
    case 4:
      copy(uint32_t{});
      break;
    default:
      copy(uint64_t{});
  }
  return out;
}

class PerExpert : public Weights {
 public:
  PerExpert(std::shared_ptr<const Weights> base, const std::string& model_type)
      : base_(std::move(base)),
        mixtral_(model_type == "mixtral"),
        numbered_(model_type == "sparsetral") {
    for (const std::string& name : base_->names()) place(name);
  }
  bool changed() const { return changed_; }

  const std::string& path() const override { return base_->path(); }
  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return slices_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const override { return at(name).first; }
  const std::string& where(const std::string& name) const override {
    return base_->where(at(name).second.source);
  }

  Tensor get(const std::string& name) const override {
    const Slice& s = at(name).second;
    if (s.part == Piece::kWhole) return base_->get(s.source);
    if (last_name_ != s.source) {  // a source that is made on reading is made once for all experts
      last_ = base_->get(s.source);
      last_name_ = s.source;
    }
    Tensor t = last_.slice(s.expert, s.expert + 1).view({last_.dim(1), last_.dim(2)});
    int64_t half = s.part == Piece::kUp ? 1 : 0;
    if (s.transposed) {
      int64_t I = t.dim(1) / 2;
      if (s.part != Piece::kDown) t = t.columns(half * I, (half + 1) * I);
      return transpose(t);
    }
    int64_t I = t.dim(0) / 2;
    return s.part == Piece::kDown ? t : t.slice(half * I, (half + 1) * I);
  }

 private:
  using Entry = std::pair<TensorInfo, Slice>;

  const Entry& at(const std::string& name) const {
    auto it = slices_.find(name);
    check(it != slices_.end(), "{}: no tensor {}", path(), name);
    return it->second;
  }

  void put(const std::string& name, const TensorInfo& like, Shape shape, Slice slice) {
    TensorInfo info = like;
    info.name = name;
    info.shape = std::move(shape);
    changed_ |= name != slice.source;
    check(slices_.emplace(name, Entry{std::move(info), std::move(slice)}).second,
          "{}: tensor {} is there twice, in two layouts of experts", path(), name);
    names_.push_back(name);
  }

  // "...mlp" or "...block_sparse_moe" as the family calls it.
  std::string block(std::string_view prefix) const {
    for (std::string_view end : {kMlp, kBlock})
      if (prefix.ends_with(end)) {
        prefix.remove_suffix(end.size());
        return std::string(prefix) + std::string(mixtral_ ? kBlock : kMlp);
      }
    return std::string(prefix);
  }
  std::string name_of(const std::string& prefix, std::string_view expert, size_t part) const {
    return fmt::format("{}.experts.{}.{}.weight", prefix, expert,
                       mixtral_ ? kMixtral[part] : kPlain[part]);
  }

  void place(const std::string& name) {
    const TensorInfo& info = base_->info(name);
    std::string_view view = name;
    size_t at = view.find(kExperts);
    std::string_view prefix = view.substr(0, at == view.npos ? 0 : at);
    if (prefix.ends_with(kAdapters)) {
      std::string_view expert = view.substr(at + kExperts.size());
      if (expert.starts_with(kAdapter)) expert.remove_prefix(kAdapter.size());
      return put(fmt::format("{}{}{}{}", prefix, kExperts, numbered_ ? "" : kAdapter, expert), info,
                 info.shape, {name});
    }
    bool routed = prefix.ends_with(kMlp) || prefix.ends_with(kBlock);
    if (!routed) {  // the router goes with its experts
      constexpr std::string_view kRouter = ".gate.weight";
      if (view.ends_with(kRouter) && !view.substr(0, view.size() - kRouter.size()).empty())
        return put(block(view.substr(0, view.size() - kRouter.size())) + std::string(kRouter), info,
                   info.shape, {name});
      return put(name, info, info.shape, {name});
    }
    std::string_view rest = view.substr(at + kExperts.size());
    if (rest == "gate_up_proj" || rest == "down_proj") return fused(name, std::string(prefix));
    size_t dot = rest.find('.');
    std::string_view expert = rest.substr(0, dot), leaf = dot == rest.npos ? "" : rest.substr(dot);
    bool number = !expert.empty() && std::all_of(expert.begin(), expert.end(),
                                                 [](char c) { return c >= '0' && c <= '9'; });
    for (size_t part = 0; number && part < 3; ++part)
      for (std::string_view leaf_name : {kPlain[part], kMixtral[part]})
        if (leaf == fmt::format(".{}.weight", leaf_name))
          return put(name_of(block(prefix), expert, part), info, info.shape, {name});
    put(name, info, info.shape, {name});
  }

  // Tells the layout by the shapes of both tensors; with one of them alone, a square one is
  // ambiguous.
  bool is_transposed(const std::string& name, const std::string& prefix) const {
    std::string gate = prefix + ".experts.gate_up_proj", down = prefix + ".experts.down_proj";
    check(base_->has(gate) && base_->has(down), "{}: {} without {}: fused experts come in pairs",
          path(), name, name == gate ? down : gate);
    const Shape &g = base_->info(gate).shape, &d = base_->info(down).shape;
    auto say = [&](const char* what) {
      fail("{}: {} {} and {} {} {}", path(), gate, to_string(g), down, to_string(d), what);
    };
    // Without a zero among them, all sizes are bounded by the file's.
    if (g.size() != 3 || d.size() != 3 || g[0] != d[0] || numel_of(g) == 0 || numel_of(d) == 0)
      say("are no fused experts [E,...]");
    bool plain = g[1] == 2 * d[2] && g[2] == d[1], turned = g[2] == 2 * d[1] && g[1] == d[2];
    if (plain && turned) say("fit both [E,2I,H], [E,H,I] and their transposes");
    if (!plain && !turned) say("are neither [E,2I,H], [E,H,I] nor [E,H,2I], [E,I,H]");
    return turned;
  }

  void fused(const std::string& name, const std::string& prefix) {
    const TensorInfo& info = base_->info(name);
    bool turned = is_transposed(name, prefix), down = name.ends_with("down_proj");
    int64_t rows = info.shape[1], cols = info.shape[2];
    if (turned) std::swap(rows, cols);
    if (!down) rows /= 2;
    std::string to = block(prefix);
    for (int64_t e = 0; e < info.shape[0]; ++e) {
      std::string expert = std::to_string(e);
      if (down) {
        put(name_of(to, expert, 2), info, {rows, cols}, {name, Piece::kDown, e, turned});
      } else {
        put(name_of(to, expert, 0), info, {rows, cols}, {name, Piece::kGate, e, turned});
        put(name_of(to, expert, 1), info, {rows, cols}, {name, Piece::kUp, e, turned});
      }
    }
  }

  std::shared_ptr<const Weights> base_;
  bool mixtral_, numbered_, changed_ = false;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Entry> slices_;
  mutable std::string last_name_;  // the fused tensor last read
  mutable Tensor last_;
};

}  // namespace

std::shared_ptr<const Weights> per_expert(std::shared_ptr<const Weights> base,
                                          const std::string& model_type) {
  auto out = std::make_shared<PerExpert>(base, model_type);
  if (out->changed()) return out;
  return base;
}

}  // namespace sutor
