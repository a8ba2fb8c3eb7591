// Tensor names of llama.cpp (gguf-py/gguf/tensor_mapping.py) to Hugging Face's, back from fused
// experts to single ones, and back to Hugging Face's order of the rows of q and k, which llama's
// converter permutes (LlamaModel.permute). Quantised matrices stay in their blocks (DType::BLOCKS),
// in the mapped file where no row moves; other quantised tensors are unpacked. Test:
// tests/gguf.cpp.

#include <algorithm>
#include <filesystem>

#include "engine/dry_run.h"
#include "engine/quant.h"
#include "model/gguf.h"

namespace sutor {
namespace {

struct Piece {
  std::string source;      // tensor of the file
  size_t file = 0;         // which of a split model's files
  int64_t expert = -1;     // of a fused tensor
  int64_t heads = 0;       // rows to be put back into halves, in so many heads; 0: as they are
  std::string other = {};  // v of a kv_b_proj that is stored as k (transposed) and v
};

struct Rename {
  std::string_view from, to;
};
// Below blk.N. and model.layers.N.
constexpr Rename kNames[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
};
constexpr Rename kExperts[] = {
    {"ffn_gate", "gate_proj"}, {"ffn_up", "up_proj"}, {"ffn_down", "down_proj"}};

class GgufWeights : public Weights {
 public:
  GgufWeights(const std::string& path, Compute compute)
      : path_(path), exact_(compute == Compute::kF32), files_(open_gguf_parts(path)) {
    const GgufFile& f = *files_[0];
    arch_ = gguf_value<std::string>(f, "general.architecture");
    heads_ = heads("attention.head_count", 1);
    kv_heads_ = heads("attention.head_count_kv", heads_);
    for (size_t i = 0; i < files_.size(); ++i)
      for (const std::string& name : files_[i]->names()) place(name, i);
  }

  const std::string& path() const override { return path_; }
  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return pieces_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const override { return at(name).first; }
  const std::string& where(const std::string& name) const override {
    return files_[at(name).second.file]->path();
  }

  Tensor get(const std::string& name) const override {
    const auto& [info, p] = at(name);
    if (!p.other.empty()) return join_kv_b(info, p);
    const TensorInfo& t = files_[p.file]->info(p.source);
    Shape shape = p.expert >= 0 ? Shape{t.shape[1], t.shape[2]} : t.shape;
    std::vector<int32_t> rows;
    if (p.heads > 0) rows = halves(shape[0], p.heads);
    return read(p, shape, p.expert, rows, stays_packed(name)).view(info.shape);
  }

 private:
  using Entry = std::pair<TensorInfo, Piece>;

  const Entry& at(const std::string& name) const {
    auto it = pieces_.find(name);
    check(it != pieces_.end(), "{}: no tensor {}", path_, name);
    return it->second;
  }

  int64_t heads(const char* key, int64_t fallback) const {
    if (files_[0]->find(arch_ + "." + key) == nullptr) return fallback;
    int64_t n = gguf_number(*files_[0], arch_ + "." + key);
    check(n > 0, "{}: {}.{} is {}", path_, arch_, key, n);
    return n;
  }

  void put(const std::string& name, Shape shape, Piece piece) {
    TensorInfo info = files_[piece.file]->info(piece.source);
    info.name = name;
    info.shape = std::move(shape);
    check(pieces_.emplace(name, Entry{std::move(info), std::move(piece)}).second,
          "{}: tensor {} is there twice", path_, name);
    names_.push_back(name);
  }

  void place(const std::string& name, size_t file) {
    const Shape& shape = files_[file]->info(name).shape;
    if (name == "rope_freqs.weight") return;  // model/gguf_config.cpp reads it
    for (auto [from, to] : {Rename{"token_embd.weight", "model.embed_tokens.weight"},
                            {"output_norm.weight", "model.norm.weight"},
                            {"output.weight", "lm_head.weight"}})
      if (name == from) return put(std::string(to), shape, {name, file});
    std::vector<std::string_view> parts;  // blk, layer, what, [expert,] weight | bias
    for (std::string_view rest = name; parts.size() < 6;) {
      size_t dot = rest.find('.');
      parts.push_back(rest.substr(0, dot));
      if (dot == rest.npos) break;
      rest.remove_prefix(dot + 1);
    }
    auto digits = [](std::string_view s) {
      return !s.empty() && s.find_first_not_of("0123456789") == s.npos;
    };
    bool single = parts.size() == 5 && digits(parts[3]);  // blk.0.ffn_gate.7.weight: older Mixtral
    check(parts[0] == "blk" && (parts.size() == 4 || single) && digits(parts[1]),
          "{}: tensor {} is not known", path_, name);
    std::string layer = fmt::format("model.layers.{}.", parts[1]),
                end = "." + std::string(parts.back()), what(parts[2]);
    for (auto [from, to] : kExperts) {
      if (single && what == from)
        return put(fmt::format("{}mlp.experts.{}.{}.weight", layer, parts[3], to), shape,
                   {name, file});
      if (what != std::string(from) + "_exps") continue;
      check(shape.size() == 3, "{}: tensor {} has shape {}, [E,rows,columns] expected", path_, name,
            to_string(shape));
      for (int64_t e = 0; e < shape[0]; ++e)
        put(fmt::format("{}mlp.experts.{}.{}.weight", layer, e, to), {shape[1], shape[2]},
            {name, file, e});
      return;
    }
    if (what == "exp_probs_b")
      return put(layer + "mlp.gate.e_score_correction_bias", shape, {name, file});
    if (what == "attn_v_b") return;  // goes with attn_k_b
    if (what == "attn_k_b") return place_kv_b(name, std::string(parts[1]), file);
    if (what == "ffn_gate_inp_shexp")
      return put(layer + "mlp.shared_expert_gate.weight", {1, numel_of(shape)}, {name, file});
    for (auto [from, to] : kNames) {
      if (what != from) continue;
      std::string hub = layer + std::string(to) + end;
      constexpr std::string_view kShared = "shared_experts.";
      if (size_t i = hub.find(kShared); arch_ == "qwen2moe" && i != hub.npos)
        hub.erase(i + kShared.size() - 2, 1);
      Piece p{name, file};
      if (arch_ == "llama" && (what == "attn_q" || what == "attn_k")) {
        p.heads = what == "attn_q" ? heads_ : kv_heads_;
        check(shape[0] % (2 * p.heads) == 0, "{}: tensor {} {} has no {} heads of even width",
              path_, name, to_string(shape), p.heads);
      }
      return put(hub, shape, p);
    }
    fail("{}: tensor {} is not known", path_, name);
  }

  // k_b[N,L,P] holds each head's rows of kv_b_proj transposed, v_b[N,V,L] its other rows.
  void place_kv_b(const std::string& name, const std::string& layer, size_t file) {
    std::string other = fmt::format("blk.{}.attn_v_b.weight", layer);
    check(files_[file]->has(other), "{}: {} without {}", path_, name, other);
    const Shape &k = files_[file]->info(name).shape, &v = files_[file]->info(other).shape;
    check(k.size() == 3 && v.size() == 3 && k[0] == v[0] && k[1] == v[2],
          "{}: {} {} and {} {} do not fit each other", path_, name, to_string(k), other,
          to_string(v));
    Piece p{name, file};
    p.other = other;
    put(fmt::format("model.layers.{}.self_attn.kv_b_proj.weight", layer),
        {k[0] * (k[2] + v[1]), k[1]}, p);
  }

  Tensor join_kv_b(const TensorInfo& info, const Piece& p) const {
    Shape ks = files_[p.file]->info(p.source).shape, vs = files_[p.file]->info(p.other).shape;
    if (dry_run()) return empty(info.shape, exact_ ? DType::F32 : DType::BF16);
    Piece vp = p;
    vp.source = p.other;
    int64_t N = ks[0], L = ks[1], P = ks[2], V = vs[1];
    Tensor k = read(p, {N * L, P}, -1, {}), v = read(vp, {N * V, L}, -1, {});
    k = k.dtype == DType::F32 ? k : cast(k, DType::F32);
    v = v.dtype == DType::F32 ? v : cast(v, DType::F32);
    Tensor out = empty(info.shape);
    for (int64_t n = 0; n < N; ++n) {
      Tensor head = out.slice(n * (P + V), (n + 1) * (P + V));
      for (int64_t r = 0; r < P; ++r)
        for (int64_t c = 0; c < L; ++c) head.row(r)[c] = k.row(n * L + c)[r];
      copy_into(head.slice(P, P + V), v.slice(n * V, (n + 1) * V));
    }
    return exact_ ? out : cast(out, DType::BF16);
  }

  // Row j * D/2 + i of a head is row 2 i + j of the file's.
  static std::vector<int32_t> halves(int64_t rows, int64_t heads) {
    std::vector<int32_t> from(rows);
    int64_t D = rows / heads;
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t j = 0; j < 2; ++j)
        for (int64_t i = 0; i < D / 2; ++i)
          from[h * D + j * (D / 2) + i] = static_cast<int32_t>(h * D + 2 * i + j);
    return from;
  }

  // What products alone read, and the embedding. Decoding reads kv_b_proj by columns, and routers
  // are few and exact.
  static bool stays_packed(const std::string& name) {
    return (name.ends_with("_proj.weight") && !name.ends_with("kv_b_proj.weight")) ||
           name == "model.embed_tokens.weight" || name == "lm_head.weight";
  }

  // A tensor of the file, or one expert of it, as rows (in the order given) of shape's last
  // dimension; `keep`: in its blocks, if it is in some.
  Tensor read(const Piece& p, const Shape& shape, int64_t expert, const std::vector<int32_t>& rows,
              bool keep = false) const {
    const GgufFile& f = *files_[p.file];
    const TensorInfo& t = f.info(p.source);
    if (const BlockFormat* b = block_format(t.dtype)) {
      const int64_t bytes = numel_of(shape) / b->elements * b->bytes;
      const DType as = exact_ ? DType::F32 : DType::BF16;
      const std::byte* from = f.bytes(p.source) + std::max<int64_t>(expert, 0) * bytes;
      if (!keep) {
        Tensor out = empty(shape, as);
        if (!dry_run()) unpack_blocks(out, from, b->type, rows.empty() ? nullptr : rows.data());
        return out;
      }
      if (rows.empty()) return blocks_tensor(f.storage(), from, *b, shape, as);
      Tensor copy = empty({bytes}, DType::U8);
      const int64_t row = bytes / shape[0];
      for (size_t r = 0; r < rows.size() && !dry_run(); ++r)
        std::copy_n(from + rows[r] * row, row, copy.data + static_cast<int64_t>(r) * row);
      return blocks_tensor(copy.storage, copy.data, *b, shape, as);
    }
    Tensor whole = f.get(p.source);
    if (expert >= 0) whole = whole.slice(expert, expert + 1);
    whole = whole.view(shape);
    if (rows.empty()) return whole;
    Tensor out = empty(shape, whole.dtype);
    int64_t bytes = whole.nbytes() / shape[0];
    for (size_t r = 0; r < rows.size() && !dry_run(); ++r)
      std::copy_n(whole.data + rows[r] * bytes, bytes, out.data + static_cast<int64_t>(r) * bytes);
    return out;
  }

  std::string path_, arch_;
  bool exact_;
  int64_t heads_ = 1, kv_heads_ = 1;
  std::vector<std::shared_ptr<const GgufFile>> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Entry> pieces_;
};

}  // namespace

std::vector<std::shared_ptr<const GgufFile>> open_gguf_parts(const std::string& path) {
  std::vector<std::shared_ptr<const GgufFile>> files{std::make_shared<GgufFile>(path)};
  auto count = gguf_value<int64_t>(*files[0], "split.count", 1);
  if (count <= 1) return files;
  check(count < 100000 && gguf_value<int64_t>(*files[0], "split.no", 0) == 0,
        "{}: a part of a split model; name the first of its {} files", path, count);
  std::string end = fmt::format("-00001-of-{:05}.gguf", count);
  check(path.ends_with(end), "{}: the first of {} files must be named ...{}", path, count, end);
  std::string stem = path.substr(0, path.size() - end.size());
  for (int64_t i = 2; i <= count; ++i)
    files.push_back(
        std::make_shared<GgufFile>(fmt::format("{}-{:05}-of-{:05}.gguf", stem, i, count)));
  return files;
}

std::shared_ptr<const Weights> open_gguf(const std::string& path, Compute compute) {
  return std::make_shared<GgufWeights>(path, compute);
}

}  // namespace sutor
