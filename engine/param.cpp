#include "engine/param.h"

#include <cstring>

#include "engine/quant.h"
#include "engine/ref/adamw8bit.h"

namespace sutor {

bool glob_match(std::string_view glob, std::string_view name) {
  size_t g = 0, n = 0, star = std::string_view::npos, mark = 0;
  while (n < name.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star = g++;
      mark = n;
    } else if (g < glob.size() && glob[g] == name[n]) {
      ++g;
      ++n;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      n = ++mark;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

Param& ParamStore::add(const std::string& name, const Shape& shape) {
  check(static_cast<bool>(source), "parameter {}: no source of weights", name);
  return add(name, source(name, shape));
}

Param& ParamStore::add(const std::string& name, Tensor value) {
  check(!has(name), "parameter {} built twice", name);
  Param p;
  p.name = name;
  p.value = std::move(value);
  params_.push_back(std::move(p));
  return *(index_[name] = &params_.back());
}

Param& ParamStore::at(const std::string& name) {
  auto it = index_.find(name);
  check(it != index_.end(), "the model has no parameter {}", name);
  return *it->second;
}

void ParamStore::freeze_all() {
  for (Param& p : params_) {
    p.trainable = false;
    p.grad = p.master = p.m = p.v = p.m_scale = p.v_scale = {};
  }
}

int ParamStore::train(std::string_view glob) {
  if (glob.find('*') == glob.npos) {
    Param& p = at(std::string(glob));
    check(!p.buffer, "{} is no weight that trains", p.name);
    p.trainable = true;
    return 1;
  }
  int n = 0;
  bool factors = glob.find(".lora_") != glob.npos;
  for (Param& p : params_) {
    if (p.buffer || !glob_match(glob, p.name) || (!factors && p.name.find(".lora_") != p.name.npos))
      continue;
    p.trainable = true;
    ++n;
  }
  check(n > 0, "no parameter matches '{}'", glob);
  return n;
}

void ParamStore::prepare_training(Compute compute, bool optimizer, bool moments_8bit) {
  for (Param& p : params_) {
    if (!p.trainable || p.grad) continue;
    p.value = unpacked(p.value);
    p.value = compute == Compute::kF32 || p.value.dtype != DType::BF16 ? cast(p.value, DType::F32)
                                                                       : clone(p.value);
    p.grad = zeros(p.value.shape);
    if (!optimizer) continue;
    bool narrow = moments_8bit && p.value.numel() >= kMin8Bit;
    p.master = p.value.dtype == DType::F32 ? p.value
               : narrow                    ? zeros(p.value.shape, DType::I16)
                                           : cast(p.value, DType::F32);
    p.m = zeros(p.value.shape, narrow ? DType::U8 : DType::F32);
    p.v = zeros(p.value.shape, narrow ? DType::U8 : DType::F32);
    if (!narrow) continue;
    int64_t blocks = (p.value.numel() + ref::kMomentBlock - 1) / ref::kMomentBlock;
    p.m_scale = zeros({blocks});
    p.v_scale = zeros({blocks});
  }
}

std::vector<Param*> ParamStore::trainable() {
  std::vector<Param*> out;
  for (Param& p : params_)
    if (p.trainable) out.push_back(&p);
  return out;
}

void ParamStore::zero_grads() {
  for (Param& p : params_)
    if (p.grad) std::memset(p.grad.data, 0, p.grad.nbytes());
}

}  // namespace sutor
