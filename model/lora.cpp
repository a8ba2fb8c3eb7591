#include "model/lora.h"

#include <bit>
#include <cmath>
#include <functional>

#include "engine/parallel.h"
#include "engine/quant.h"
#include "model/names.h"

namespace sutor {
bool is_linear(const Param& p) {
  Role role = role_of(p.name);
  return p.value.shape.size() == 2 && p.name.ends_with(".weight") &&
         role.part != Part::kEmbedding && role.part != Part::kRouter && !role.adapter &&
         p.name.find(".lora_") == std::string::npos;
}

int add_lora(Model& model, const LoraOptions& opt, uint64_t seed) {
  check(opt.rank > 0, "LoRA rank is {}, must be 1 or more", opt.rank);
  std::vector<Param*> chosen;
  std::vector<int> hits(opt.targets.size(), 0);
  for (Param& p : model.params.all()) {
    if (!is_linear(p)) continue;
    std::string module = p.name.substr(0, p.name.size() - 7);
    bool wanted = opt.targets.empty();
    for (size_t i = 0; i < opt.targets.size(); ++i)
      if (glob_match(opt.targets[i], module) || glob_match("*." + opt.targets[i], module))
        ++hits[i], wanted = true;
    if (wanted) chosen.push_back(&p);
  }
  for (size_t i = 0; i < hits.size(); ++i)
    check(hits[i] > 0, "LoRA target '{}' matches no linear of the model", opt.targets[i]);
  Config uniform = model.config;
  for (Param* p : chosen) {
    std::string module = p->name.substr(0, p->name.size() - 7);
    int64_t N = p->value.dim(0), K = p->value.dim(1);
    // torch's kaiming_uniform_(a = sqrt 5): U(-1/sqrt K, 1/sqrt K); here a normal of the same
    // variance, seeded by name.
    uniform.init_std = 1.0 / std::sqrt(3.0 * static_cast<double>(K));
    auto random = random_source(uniform, seed, DType::F32);
    Param& a = model.params.add(module + ".lora_A.weight",
                                random(module + ".lora_A.weight", {opt.rank, K}));
    Param& b = model.params.add(module + ".lora_B.weight", zeros({N, opt.rank}));
    a.trainable = b.trainable = true;
    p->lora = Lora{&a, &b, static_cast<float>(opt.alpha / static_cast<double>(opt.rank)),
                   static_cast<float>(opt.dropout)};
  }
  return static_cast<int>(chosen.size());
}

namespace {

// Row n of W' in f64.
void merged_row(const MergedWeight& m, int64_t n, std::vector<double>& row) {
  const Tensor &a = m.lora.a->value, &b = m.lora.b->value;
  int64_t K = m.original.dim(1), r = a.dim(0);
  row.resize(K);
  visit_float(m.original.dtype, [&](auto type) {
    const auto* w = m.original.as<decltype(type)>() + n * m.original.ld;
    for (int64_t k = 0; k < K; ++k) row[k] = static_cast<float>(w[k]);
  });
  visit_float(a.dtype, [&](auto ta) {
    visit_float(b.dtype, [&](auto tb) {
      for (int64_t i = 0; i < r; ++i) {
        double s = static_cast<double>(m.lora.scale) *
                   static_cast<double>(static_cast<float>(b.as<decltype(tb)>()[n * b.ld + i]));
        const auto* ai = a.as<decltype(ta)>() + i * a.ld;
        for (int64_t k = 0; k < K; ++k)
          row[k] += s * static_cast<double>(static_cast<float>(ai[k]));
      }
    });
  });
  if (!m.magnitude) return;
  double squares = 0;
  for (double w : row) squares += w * w;
  double factor = static_cast<double>(m.magnitude.f32()[n]) / std::sqrt(squares);
  for (double& w : row) w *= factor;
}

// To bf16 in one rounding: through the f32 whose last bit is set whenever bits were lost (rounding
// to odd), because rounding to nearest twice can end beside the nearest.
bf16 bf16_of(double x) {
  float f = static_cast<float>(x);
  if (static_cast<double>(f) != x && std::isfinite(f)) {
    if (std::abs(static_cast<double>(f)) > std::abs(x)) f = std::nextafter(f, 0.0f);
    f = std::bit_cast<float>(std::bit_cast<uint32_t>(f) | 1u);
  }
  return bf16(f);
}

// Each from the f64 in one rounding, to nearest even.
void round_to(float& out, double x) { out = static_cast<float>(x); }
void round_to(bf16& out, double x) { out = bf16_of(x); }
void round_to(f16& out, double x) { out.bits = std::bit_cast<uint16_t>(static_cast<_Float16>(x)); }

// The next number of the type away from zero (step 1) or towards it (-1).
float neighbour(float x, int step) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) + static_cast<uint32_t>(step));
}
template <class T>
float neighbour(T x, int step) {
  x.bits = static_cast<uint16_t>(x.bits + step);
  return x;
}

void each_row(const MergedWeight& m,
              const std::function<void(int64_t n, const std::vector<double>& row)>& fn) {
  parallel_for(m.original.dim(0), 1, [&](int64_t lo, int64_t hi) {
    std::vector<double> row;
    for (int64_t n = lo; n < hi; ++n) merged_row(m, n, row), fn(n, row);
  });
}

}  // namespace

Tensor unrounded(const MergedWeight& m) {
  Tensor w = empty(m.original.shape);
  each_row(m, [&](int64_t n, const std::vector<double>& row) {
    for (size_t k = 0; k < row.size(); ++k) w.row(n)[k] = static_cast<float>(row[k]);
  });
  return w;
}

std::vector<MergedWeight> merge_unrounded(Model& model) {
  std::vector<MergedWeight> merged = std::move(model.folded);
  model.folded.clear();
  for (Param& p : model.params.all()) {
    if (!p.lora) continue;
    p.value = unpacked(p.value);
    p.value = unrounded(merged.emplace_back(MergedWeight{&p, p.value, *p.lora, {}}));
    p.lora.reset();
  }
  return merged;
}

void round_merged(const std::vector<MergedWeight>& merged) {
  for (const MergedWeight& m : merged) {
    if (m.original.dtype == DType::F32) continue;  // already rounded, once
    Tensor w = empty(m.original.shape, m.original.dtype);
    visit_float(w.dtype, [&](auto type) {
      each_row(m, [&](int64_t n, const std::vector<double>& row) {
        auto* out = w.as<decltype(type)>() + n * w.ld;
        for (size_t k = 0; k < row.size(); ++k) round_to(out[k], row[k]);
      });
    });
    m.param->value = w;
  }
}

void check_merged(const MergedWeight& m, const Tensor& stored) {
  check(stored.dtype == m.original.dtype && stored.shape == m.original.shape,
        "{}: is {} {} after merging, was {} {}", m.param->name, name_of(stored.dtype),
        to_string(stored.shape), name_of(m.original.dtype), to_string(m.original.shape));
  visit_float(stored.dtype, [&](auto type) {
    each_row(m, [&](int64_t n, const std::vector<double>& row) {
      const auto* in = stored.as<decltype(type)>() + n * stored.ld;
      for (size_t k = 0; k < row.size(); ++k) {
        float s = in[k];
        double off = std::abs(s - row[k]);
        bool nearest = std::isfinite(s) && off <= std::abs(neighbour(in[k], 1) - row[k]) &&
                       (s == 0 || off <= std::abs(neighbour(in[k], -1) - row[k]));
        check(nearest, "{}[{},{}]: {} is not the nearest {} to W + s B A = {}", m.param->name, n, k,
              s, name_of(stored.dtype), row[k]);
      }
    });
  });
}

}  // namespace sutor
