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
    p.grad = p.sum = p.master = p.m = p.v = p.m_scale = p.v_scale = {};
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

DType trained_type(const Tensor& value, Compute compute) {
  return compute == Compute::kF32 || float_type(value) != DType::BF16 ? DType::F32 : DType::BF16;
}

namespace {

// Its value and gradient become views of the slab.
void fill(Slab& slab, Compute compute) {
  constexpr int64_t kAlign = 64;
  auto aligned = [](int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; };
  auto type = [&](const Param& p) { return trained_type(p.value, compute); };
  int64_t bytes = 0;
  for (Param* p : slab.params) {
    slab.at.push_back(slab.stride);
    slab.byte_at.push_back(bytes);
    slab.stride += aligned(p->value.numel() * 4) / 4;
    bytes += aligned(p->value.numel() * size_of(type(*p)));
  }
  slab.grads = zeros({slab.sources, slab.stride});
  slab.values = empty({bytes}, DType::U8);
  for (size_t i = 0; i < slab.params.size(); ++i) {
    Param& p = *slab.params[i];
    Tensor value =
        wrap(slab.values.storage, slab.values.data + slab.byte_at[i], p.value.shape, type(p));
    copy_into(value, p.value);
    p.value = value;
    p.grad = wrap(slab.grads.storage, slab.grads.f32() + slab.at[i], p.value.shape, DType::F32);
  }
}

}  // namespace

void ParamStore::prepare_training(Compute compute, const TrainingSpace& space) {
  slabs_[0] = slabs_[1] = {};
  slabs_[1].sources = space.sources;
  for (Param& p : params_)
    if (p.trainable && !p.remote && !p.grad) slabs_[p.owner < 0 ? 0 : 1].params.push_back(&p);
  for (Slab& slab : slabs_) {
    if (slab.params.empty()) continue;
    fill(slab, compute);
    for (Param* q : slab.params) {
      Param& p = *q;
      if (p.hi < 0) p.hi = p.value.numel();
      const int64_t n = p.hi - p.lo;
      p.sum = flat(p.grad, p.lo, p.hi);
      if (!space.optimizer) continue;
      bool narrow = space.moments_8bit && p.value.numel() >= kMin8Bit;
      p.master = p.value.dtype == DType::F32 ? flat(p.value, p.lo, p.hi)
                 : narrow                    ? zeros({n}, DType::I16)
                                             : cast(flat(p.value, p.lo, p.hi), DType::F32);
      p.m = zeros({n}, narrow ? DType::U8 : DType::F32);
      p.v = zeros({n}, narrow ? DType::U8 : DType::F32);
      if (!narrow) continue;
      int64_t blocks = (n + ref::kMomentBlock - 1) / ref::kMomentBlock;
      p.m_scale = zeros({blocks});
      p.v_scale = zeros({blocks});
    }
  }
}

std::vector<Param*> ParamStore::trainable() {
  std::vector<Param*> out;
  for (Param& p : params_)
    if (p.trainable) out.push_back(&p);
  return out;
}

std::vector<Param*> ParamStore::trained_here() {
  std::vector<Param*> out;
  for (Param& p : params_)
    if (p.trainable && !p.remote) out.push_back(&p);
  return out;
}

void ParamStore::zero_grads() {
  for (Slab& s : slabs_)
    if (s.grads) std::memset(s.grads.data, 0, s.grads.nbytes());
  for (Param& p : params_)  // prepared before the others
    if (p.grad && p.grad.storage != slabs_[0].grads.storage &&
        p.grad.storage != slabs_[1].grads.storage)
      std::memset(p.grad.data, 0, p.grad.nbytes());
}

}  // namespace sutor
