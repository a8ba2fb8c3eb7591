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
  Tensor grad;   // F32, of one micro-batch; exists only while trainable, here and below
  // Elements lo..hi of the value are updated by this rank (all of them on one rank); what the
  // update needs exists for them alone, as vectors [hi - lo]:
  int64_t lo = 0, hi = -1;  // -1: to the end
  Tensor sum;               // F32, gradient of the whole step: `grad` itself, or apart (GradSum)
  Tensor master, m, v;      // optimiser state, F32
  Tensor m_scale, v_scale;  // F32 [blocks of 256] where m and v are 8-bit (U8) codes; the master of
                            // a BF16 value is then I16: what its 32 bits have beyond the value's
  bool trainable = false;
  int owner = -1;       // the one of the ranks that share experts which holds it; -1: every rank
  bool remote = false;  // that is another one: nothing of it is read, trained or copied here
  bool buffer = false;  // never trains (a router's selection bias)
  std::optional<Lora> lora;
};

inline Tensor flat(const Tensor& t, int64_t lo, int64_t hi) {  // elements of a contiguous tensor
  return t.view({t.numel()}).slice(lo, hi);
}

// What a parameter's value becomes when it trains: F32 when computing in f32 or when the file is
// not BF16, else BF16.
DType trained_type(const Tensor& value, Compute compute);

// What training needs beside the weights.
struct TrainingSpace {
  bool optimizer = true;      // masters and moments
  bool moments_8bit = false;  // of parameters with kMin8Bit elements and more
  int sources = 1;  // of the gradients of experts that ranks share: one of each rank's tokens
};

// Gradients and values of what trains here, each in one piece of memory, parameters in order; what
// every rank has, and what the ranks that share experts have each for itself.
struct Slab {
  std::vector<Param*> params;
  std::vector<int64_t> at;       // floats before parameter i in a gradient
  std::vector<int64_t> byte_at;  // bytes before it in `values`
  Tensor grads;                  // F32 [sources, stride]
  Tensor values;                 // U8
  int sources = 1;
  int64_t stride = 0;
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
  // Heap copies and gradients for what is marked and not remote. Values become F32 when computing
  // in f32 (or when the file is not BF16), else stay BF16.
  void prepare_training(Compute compute, const TrainingSpace& space = {});
  static constexpr int64_t kMin8Bit = 4096;  // bitsandbytes' min_8bit_size
  const Slab& everywhere() const { return slabs_[0]; }
  const Slab& experts() const { return slabs_[1]; }
  std::vector<Param*> trainable();
  std::vector<Param*> trained_here();  // those that are not remote
  void zero_grads();

 private:
  std::deque<Param> params_;  // in order of creation; addresses stay
  std::unordered_map<std::string, Param*> index_;
  Slab slabs_[2];
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
