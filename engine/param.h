#pragma once
// Parameters by name. The path at which a module is built is the name in the checkpoint (`s /
// "layers" / 3 / "mlp"`), and what trains is decided here alone, by name: freeze_all(), then
// train("model.layers.3.mlp.experts.17.*").

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/backend.h"

namespace sutor {

struct Param;

// y = x W^T + scale * (x A^T) B^T; A[r,K], B[N,r] are parameters of their own (arXiv 2106.09685).
struct Lora {
  Param* a;
  Param* b;
  float scale;
  float dropout = 0;  // of x, in training
};

struct Param {
  std::string name;
  Tensor value;  // the file's bytes while frozen; a heap copy (bf16, or f32 in f32 runs) once
                 // trainable
  Tensor grad;   // F32, exists only while trainable
  Tensor master, m, v;      // optimiser state, F32, exists only while trainable
  Tensor m_scale, v_scale;  // F32 [blocks of 256] where m and v are 8-bit (U8) codes; the master of
                            // a BF16 value is then I16: what its 32 bits have beyond the value's
  bool trainable = false;
  bool buffer = false;  // never trains (a router's selection bias)
  std::optional<Lora> lora;
};

// True when `glob` (only * is special; it matches dots too) matches all of `name`.
bool glob_match(std::string_view glob, std::string_view name);

class ParamStore {
 public:
  // Gives the tensor of a name, checked against the shape; throws when absent. Set before a model
  // is built, empty afterwards.
  std::function<Tensor(const std::string&, const Shape&)> source;

  Param& add(const std::string& name, const Shape& shape);  // from the source
  Param& add(const std::string& name, Tensor value);        // given (LoRA factors, adapters)
  Param& at(const std::string& name);
  bool has(const std::string& name) const { return index_.count(name) != 0; }
  std::deque<Param>& all() { return params_; }
  const std::deque<Param>& all() const { return params_; }

  void freeze_all();
  int train(std::string_view glob);  // marks; LoRA factors only if named, buffers never; no match:
                                     // error
  // Heap copies and gradients for what is marked, and with `optimizer` the masters and moments.
  // Values become F32 when computing in f32 (or when the file is not BF16), else stay BF16.
  // moments_8bit: of parameters with kMin8Bit elements and more.
  void prepare_training(Compute compute, bool optimizer = true, bool moments_8bit = false);
  static constexpr int64_t kMin8Bit = 4096;  // bitsandbytes' min_8bit_size
  std::vector<Param*> trainable();
  void zero_grads();

 private:
  std::deque<Param> params_;  // in order of creation; addresses stay
  std::unordered_map<std::string, Param*> index_;
};

struct Scope {
  ParamStore& store;
  std::string path;
  Scope operator/(std::string_view part) const {
    return {store, path.empty() ? std::string(part) : path + "." + std::string(part)};
  }
  Scope operator/(int part) const { return *this / std::to_string(part); }
  Param& param(const char* leaf, const Shape& shape) const {
    return store.add((*this / leaf).path, shape);
  }
};

}  // namespace sutor
