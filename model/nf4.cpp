#include "model/nf4.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "engine/dry_run.h"
#include "engine/quant.h"
#include "model/lora.h"

namespace sutor {
namespace {

constexpr std::string_view kState = ".quant_state.";
const std::string kNf4State = ".quant_state.bitsandbytes__nf4";

struct Type {
  DType dtype;
  const char* name;
};
constexpr Type kTypes[] = {
    {DType::F32, "float32"}, {DType::BF16, "bfloat16"}, {DType::F16, "float16"}};

// NaN and Inf have no code.
Nf4 packed_finite(const std::string& name, const Tensor& weight) {
  Nf4 p = pack_nf4(weight);
  check(std::isfinite(p.offset), "{}: holds NaN or Inf, which NF4 cannot", name);
  return p;
}

class Nf4Weights : public Weights {
 public:
  explicit Nf4Weights(std::shared_ptr<const Weights> base) : base_(std::move(base)) {
    for (const std::string& name : base_->names()) {
      size_t at = name.find(kState);
      if (at == name.npos) continue;
      check(name.substr(at) == kNf4State, "{}: tensor {}: known: {}", base_->path(), name,
            kNf4State.substr(1));
      read_state(name.substr(0, at), name);
    }
    for (const std::string& name : base_->names()) check_has_state(name);
    for (const std::string& name : base_->names())
      if (parts_.count(name) == 0) names_.push_back(name);
  }
  bool any() const { return !states_.empty(); }

  const std::string& path() const override { return base_->path(); }
  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override {
    return base_->has(name) && parts_.count(name) == 0;
  }
  const TensorInfo& info(const std::string& name) const override {
    auto it = states_.find(name);
    return it == states_.end() ? base_->info(name) : it->second.info;
  }
  const std::string& where(const std::string& name) const override { return base_->where(name); }

  Tensor get(const std::string& name) const override {
    auto it = states_.find(name);
    if (it == states_.end()) return base_->get(name);
    const State& s = it->second;
    // Matrices stay packed; the kernels unpack what they read.
    if (s.info.shape.size() == 2) return nf4_tensor(s.nf4, s.info.shape, s.dtype);
    Tensor out = empty(s.info.shape, s.dtype);
    if (!dry_run()) unpack_nf4(out, s.nf4);
    return out;
  }

 private:
  struct State {
    TensorInfo info;
    DType dtype;
    Nf4 nf4;
  };

  // What belongs to a packed weight, and packed weights themselves, of which no state tells.
  void check_has_state(const std::string& name) const {
    for (const char* end : {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"})
      if (name.ends_with(end)) {
        const std::string weight = name.substr(0, name.size() - std::strlen(end));
        check(base_->has(weight + kNf4State), "{}: {} has {}, but no {}{}: the file is not whole",
              base_->where(name), weight, name, weight, kNf4State);
        check(parts_.count(name) != 0,
              "{}: {} has {}, of which its {} says nothing (nested_offset?)", base_->where(name),
              weight, name, kNf4State.substr(1));
      }
    const TensorInfo& info = base_->info(name);
    check(info.dtype != "U8" || !name.ends_with(".weight") || states_.count(name) != 0,
          "{}: {} is packed (U8 {}), but has no {}{}: the file is not whole", base_->where(name),
          name, to_string(info.shape), name, kNf4State);
  }

  // `of`: the weight that the statistic `name` belongs to.
  Tensor part(const std::string& of, const std::string& name, DType dtype, int64_t elements) {
    check(base_->has(name), "{}: tensor {} is in NF4, but its {} is missing", base_->path(), of,
          name);
    Tensor t = base_->get(name);
    check(t.dtype == dtype && t.numel() == elements, "{}: {} is {} {}, {} {} expected",
          base_->where(name), name, name_of(t.dtype), to_string(t.shape), elements,
          sutor::name_of(dtype));
    parts_[name] = true;
    return t;
  }

  void read_state(const std::string& name, const std::string& state) {
    Tensor text = base_->get(state);
    std::string where = base_->where(state) + ": " + state;
    check(text.dtype == DType::U8, "{}: is {}, U8 expected", where, name_of(text.dtype));
    Json j =
        parse_json({reinterpret_cast<const char*>(text.data), static_cast<size_t>(text.nbytes())},
                   where, 4, 1 << 16);
    parts_[state] = true;
    auto kind = sutor::get<std::string>(j, "quant_type", where);
    check(kind == "nf4", "{}: quant_type is \"{}\", known: nf4", where, kind);
    State s;
    auto type = sutor::get<std::string>(j, "dtype", where);
    const Type* known = nullptr;
    for (const Type& t : kTypes)
      if (type == t.name) known = &t;
    check(known != nullptr, "{}: dtype is \"{}\", known: float32, bfloat16, float16", where, type);
    s.dtype = known->dtype;
    int64_t n = 1;
    bool fits = true;  // n, and n + block below, in 64 bits
    for (const Json& d : sutor::get<Json>(j, "shape", where)) {
      check(d.is_number_unsigned() && d.get<uint64_t>() < (uint64_t{1} << 40),
            "{}: shape must hold integers >= 0", where);
      s.info.shape.push_back(d.get<int64_t>());
      fits = fits && !__builtin_mul_overflow(n, s.info.shape.back(), &n);
    }
    fits = fits && n < int64_t{1} << 60;
    check(fits && base_->has(name), "{}: {} {} is not there", where, name, to_string(s.info.shape));
    auto block = [&](const char* key) {
      auto v = sutor::get<int64_t>(j, key, where);
      check(v >= 64 && v <= 4096 && std::has_single_bit(static_cast<uint64_t>(v)),
            "{}: {} is {}, allowed: 64, 128, ... 4096 (powers of 2)", where, key, v);
      return v;
    };
    s.nf4.block = block("blocksize");
    int64_t blocks = (n + s.nf4.block - 1) / s.nf4.block;
    s.nf4.packed = part(name, name, DType::U8, (n + 1) / 2);
    parts_.erase(name);
    s.nf4.code = part(name, name + ".quant_map", DType::F32, 16);
    bool nested = j.contains("nested_offset");
    const std::string absmax = name + ".absmax";
    check(nested || !base_->has(absmax) || base_->info(absmax).dtype != "U8",
          "{}: has no nested_offset, yet {} is U8, double quantised", where, absmax);
    s.nf4.absmax = part(name, absmax, nested ? DType::U8 : DType::F32, blocks);
    if (nested) {
      s.nf4.nested_block = block("nested_blocksize");
      s.nf4.offset = static_cast<float>(sutor::get<double>(j, "nested_offset", where));
      s.nf4.map = part(name, name + ".nested_quant_map", DType::F32, 256);
      s.nf4.scale = part(name, name + ".nested_absmax", DType::F32,
                         (blocks + s.nf4.nested_block - 1) / s.nf4.nested_block);
    }
    const TensorInfo& packed = base_->info(name);
    s.info.name = name;
    s.info.dtype = "NF4";
    s.info.begin = packed.begin;
    s.info.end = packed.end;
    states_.emplace(name, std::move(s));
  }

  std::shared_ptr<const Weights> base_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, State> states_;
  std::unordered_map<std::string, bool> parts_;  // tensors that belong to another
};

}  // namespace

std::shared_ptr<const Weights> nf4_weights(std::shared_ptr<const Weights> base) {
  auto out = std::make_shared<Nf4Weights>(base);
  if (out->any()) return out;
  return base;
}

int quantise_frozen(Model& model) {
  int packed = 0;
  for (Param& p : model.params.all()) {
    if (p.trainable || p.value.dtype == DType::NF4 || !is_linear(p)) continue;
    Tensor w = p.value;
    const Nf4 q = packed_finite(p.name, w);
    for (const Tensor& part : {q.packed, q.absmax, q.code, q.map, q.scale})
      if (part) model.base.bytes_4bit += static_cast<int64_t>(part.nbytes());
    model.base.weights_4bit += w.numel();
    p.value = nf4_tensor(q, w.shape, w.dtype);
    forget_pages(w);
    ++packed;
  }
  return packed;
}

NamedTensors packed_nf4(const std::string& name, const Tensor& weight) {
  const bool is_packed = weight.dtype == DType::NF4;
  const Nf4 p = is_packed ? nf4_of(weight).nf4 : packed_finite(name, weight);
  const DType type = float_type(weight);
  check(p.absmax.dtype == DType::U8, "{}: is NF4 without double quantisation", name);
  const char* dtype = nullptr;
  for (const Type& t : kTypes)
    if (t.dtype == type) dtype = t.name;
  check(dtype != nullptr, "{}: {} cannot be quantised", name, name_of(weight.dtype));
  // As Python's json.dumps writes it, key by key.
  std::string state = fmt::format(
      R"({{"quant_type": "nf4", "blocksize": {}, "dtype": "{}", "shape": [{}], "nested_blocksize": {}, "nested_dtype": "float32", "nested_offset": {}}})",
      p.block, dtype, fmt::join(weight.shape, ", "), p.nested_block, static_cast<double>(p.offset));
  Tensor text = empty({static_cast<int64_t>(state.size())}, DType::U8);
  std::memcpy(text.data, state.data(), state.size());
  return {{name, p.packed},
          {name + ".absmax", p.absmax},
          {name + ".quant_map", p.code},
          {name + ".nested_absmax", p.scale},
          {name + ".nested_quant_map", p.map},
          {name + kNf4State, text}};
}

Json nf4_config(const std::vector<std::string>& skipped) {
  return {{"_load_in_4bit", true},
          {"_load_in_8bit", false},
          {"bnb_4bit_compute_dtype", "bfloat16"},
          {"bnb_4bit_quant_storage", "uint8"},
          {"bnb_4bit_quant_type", "nf4"},
          {"bnb_4bit_use_double_quant", true},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", skipped},
          {"llm_int8_threshold", 6.0},
          {"load_in_4bit", true},
          {"load_in_8bit", false},
          {"quant_method", "bitsandbytes"}};
}

}  // namespace sutor
