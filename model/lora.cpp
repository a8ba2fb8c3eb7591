#include "model/lora.h"

#include <cmath>

namespace sutor {
namespace {

bool is_linear(const Param& p) {
  return p.value.shape.size() == 2 && p.name.ends_with(".weight") &&
         !p.name.ends_with("embed_tokens.weight") && p.name != "lm_head.weight" &&
         !p.name.ends_with("mlp.gate.weight") && p.name.find(".lora_") == std::string::npos;
}

}  // namespace

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
    p->lora = Lora{&a, &b, static_cast<float>(opt.alpha / static_cast<double>(opt.rank))};
  }
  return static_cast<int>(chosen.size());
}

void merge_lora(Model& model) {
  for (Param& p : model.params.all()) {
    if (!p.lora) continue;
    Tensor w = cast(p.value, DType::F32), a = cast(p.lora->a->value, DType::F32),
           b = cast(p.lora->b->value, DType::F32);
    int64_t N = w.dim(0), K = w.dim(1), r = a.dim(0);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < r; ++i) {
        float s = p.lora->scale * b.row(n)[i];
        for (int64_t k = 0; k < K; ++k) w.row(n)[k] += s * a.row(i)[k];
      }
    p.value = p.value.dtype == DType::F32 ? w : cast(w, p.value.dtype);
    p.lora.reset();
  }
}

}  // namespace sutor
