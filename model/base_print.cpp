#include "model/base_print.h"

#include <algorithm>
#include <cstring>

#include "engine/dry_run.h"
#include "engine/name_hash.h"
#include "engine/quant.h"

namespace sutor {
namespace {

constexpr int64_t kValues = 256;
constexpr const char *kPrint = "sutor.base", *kType = "sutor.base_type";
constexpr std::string_view kVersion = "1-";  // then 16 digits; of what is hashed, and how

std::string_view bytes_of(const void* data, int64_t n) {
  return {static_cast<const char*>(data), static_cast<size_t>(n)};
}

std::string type_of(const Model& model) {
  if (!model.base.packed.empty()) return model.base.packed;
  for (const Param& p : model.params.all())
    if (p.value.dtype == DType::F16) return "F16";
  return "BF16";  // or F32, which is taken as BF16
}

// Sums do not depend on the order of tensors. `opened`: the tensors that adapters have replaced
// since count as they were.
std::string print_of(const Model& model, const std::function<bool(const Param&)>& held,
                     bool opened) {
  uint64_t sum = 0;
  for (const Param& p : model.params.all()) {
    if (p.name.find(".lora_") != std::string::npos || held(p)) continue;
    const auto was = model.base.replaced.find(p.name);
    const auto fold = std::find_if(model.folded.begin(), model.folded.end(),
                                   [&](const MergedWeight& m) { return m.param == &p; });
    sum += opened && was != model.base.replaced.end()
               ? was->second
               : sample_of(p.name, fold == model.folded.end() ? p.value : fold->original);
  }
  return fmt::format("{}{:016x}", kVersion, sum);
}

bool is_print(const std::string& s) {
  return s.starts_with(kVersion) && s.size() == kVersion.size() + 16 &&
         s.find_first_not_of("0123456789abcdef", kVersion.size()) == s.npos;
}

}  // namespace

uint64_t sample_of(const std::string& name, const Tensor& t) {
  uint64_t h = name_hash(name_hash(0, name), to_string(t.shape));
  if (t.dtype == DType::NF4) {
    const Nf4& packed = nf4_of(t).nf4;
    h = name_hash(h, bytes_of(packed.packed.data, std::min(kValues / 2, packed.packed.nbytes())));
    return name_hash(
        h, bytes_of(packed.absmax.data, std::min<int64_t>(kValues / 64, packed.absmax.nbytes())));
  }
  uint16_t bits[kValues];
  const int64_t n = std::min(kValues, t.numel());
  const Tensor v = t.dtype == DType::BLOCKS ? first_blocks(t, n) : t;
  visit_float(v.dtype, [&](auto type) {
    const auto* x = v.as<decltype(type)>();
    for (int64_t i = 0; i < n; ++i)
      bits[i] = bf16(static_cast<float>(x[i / v.cols() * v.ld + i % v.cols()])).bits;
  });
  return name_hash(h, bytes_of(bits, n * 2));
}

void record_base(Model& model) {
  if (dry_run()) return;
  model.base.print = print_of(
      model, [](const Param& p) { return p.trainable; }, false);
  model.base.type = type_of(model);
}

std::map<std::string, std::string> base_metadata(const Model& model) {
  if (model.base.print.empty()) return {};
  return {{kPrint, model.base.print}, {kType, model.base.type}};
}

void check_base(Model& model, const Checkpoint& files, const std::string& dir,
                const std::function<bool(const Param&)>& held) {
  const std::string print = files.metadata(kPrint), type = files.metadata(kType);
  if (print.empty() || dry_run()) return;
  const std::string now = print_of(model, held, false), here = type_of(model);
  if (print == now || print == print_of(model, held, true)) return;
  const bool exact = type == here && (type == "BF16" || type == "F16");
  check(!is_print(print) || !exact,
        "adapter {}: was trained on another base of the same shapes, fingerprint {}; {} has {}: "
        "name its own base as MODEL, and before it the adapters that it was trained with",
        dir, print, model.config.where, now);
  model.notices.push_back(fmt::format(
      "adapter {}: whether it was trained on this base cannot be checked: {}", dir,
      is_print(print) ? fmt::format("fingerprint {} is of one in {}, {} has {} in {}", print,
                                    type.substr(0, 8), model.config.where, now, here)
                      : "its fingerprint is of another version"));
}

}  // namespace sutor
