#include "model/fp8.h"

#include <array>
#include <cmath>

#include "engine/dry_run.h"
#include "engine/parallel.h"

namespace sutor {
namespace {

// E4M3FN: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, 0x7f and 0xff are NaN.
float decoded(int code) {
  int exponent = (code >> 3) & 15, mantissa = code & 7;
  float sign = code & 0x80 ? -1.0f : 1.0f;
  if (exponent == 15 && mantissa == 7) return NAN;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

const std::array<float, 256>& values() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> t{};
    for (int i = 0; i < 256; ++i) t[i] = decoded(i);
    return t;
  }();
  return table;
}

const std::string kScale = "_scale_inv";

class Unpacked : public Weights {
 public:
  explicit Unpacked(std::shared_ptr<const Weights> base) : base_(std::move(base)) {
    for (const std::string& name : base_->names()) {
      // Beside a weight of another type, a scale means something that is not done here: it stays
      // to be seen, and is refused as unknown.
      std::string weight =
          name.ends_with(kScale) ? name.substr(0, name.size() - kScale.size()) : "";
      if (!base_->has(weight) || !is_fp8(weight)) names_.push_back(name);
      if (!is_fp8(name)) continue;
      check(base_->has(name + kScale), "{}: {} is F8_E4M3, but there is no {}{}", path(), name,
            name, kScale);
      TensorInfo info = base_->info(name);
      info.dtype = "BF16";
      infos_[name] = info;
    }
  }
  bool any() const { return !infos_.empty(); }
  const std::string& path() const override { return base_->path(); }
  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return base_->has(name); }
  const TensorInfo& info(const std::string& name) const override {
    auto it = infos_.find(name);
    return it == infos_.end() ? base_->info(name) : it->second;
  }
  const std::string& where(const std::string& name) const override { return base_->where(name); }
  Tensor get(const std::string& name) const override {
    Tensor t = base_->get(name);
    return is_fp8(name) ? dequantised_fp8(t, base_->get(name + kScale), path(), name) : t;
  }

 private:
  bool is_fp8(const std::string& name) const { return base_->info(name).dtype == "F8_E4M3"; }

  std::shared_ptr<const Weights> base_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, TensorInfo> infos_;  // as given out
};

}  // namespace

std::shared_ptr<const Weights> unpacked_fp8(std::shared_ptr<const Weights> base) {
  auto unpacked = std::make_shared<Unpacked>(base);
  return unpacked->any() ? unpacked : base;
}

Tensor dequantised_fp8(const Tensor& codes, const Tensor& scale_inv, const std::string& where,
                       const std::string& name) {
  check(codes.shape.size() == 2, "{}: {} is F8_E4M3 {}, must be a matrix", where, name,
        to_string(codes.shape));
  int64_t N = codes.dim(0), K = codes.dim(1);
  Shape blocks{(N + kFp8Block - 1) / kFp8Block, (K + kFp8Block - 1) / kFp8Block};
  check(scale_inv.dtype == DType::F32 && scale_inv.shape == blocks,
        "{}: {}_scale_inv is {} {}, {} in blocks of {} needs F32 {}", where, name,
        name_of(scale_inv.dtype), to_string(scale_inv.shape), to_string(codes.shape), kFp8Block,
        to_string(blocks));
  Tensor w = empty(codes.shape, DType::BF16);
  if (dry_run()) return w;
  const auto* from = codes.as<uint8_t>();
  const std::array<float, 256>& value = values();
  parallel_for(N, 16, [&](int64_t lo, int64_t hi) {
    for (int64_t n = lo; n < hi; ++n) {
      const float* scale = scale_inv.row(n / kFp8Block);
      for (int64_t k = 0; k < K; ++k)
        w.as<bf16>()[n * w.ld + k] = bf16(value[from[n * codes.ld + k]] * scale[k / kFp8Block]);
    }
  });
  return w;
}

}  // namespace sutor
