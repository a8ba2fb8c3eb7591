#pragma once
// What every family offers: named parameters, a forward pass that the trainer, the scorer and
// generation share.

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/ops.h"
#include "model/config.h"

namespace sutor {

// Tokens of one micro-batch: `rows` sequences laid end to end, each perhaps holding several
// documents.
struct Batch {
  Tensor ids, positions, start;  // I32 [T]; start[t] = first token of t's document (index into T)
  Tensor targets;                // I32 [T]: id that t predicts, -1 = not trained
  std::vector<int32_t> rows;     // row r is tokens rows[r]..rows[r+1]
  Tensor real{};  // I32 [T]: 0 = padding, which balance losses leave out; empty: none
};
// One document per row.
Batch make_batch(const std::vector<std::vector<int32_t>>& ids);
// Row i with labels at the same positions as ids (-100 = not trained) and, if given, document
// starts within the row.
Batch make_batch(const std::vector<std::vector<int32_t>>& ids,
                 const std::vector<std::vector<int32_t>>& labels,
                 const std::vector<std::vector<int32_t>>& starts = {});

// The one tap: sees every named activation and the routing of every MoE layer.
struct Trace {
  virtual ~Trace() = default;
  virtual void activation(const std::string&, const Tensor&) {}
  virtual void routing(int /*layer*/, const Routing&) {}
  // True: hidden() may end at the last router; its result is then of no use.
  virtual bool routing_only() const { return false; }
};

// A layer's keys [S*G,D] and values [S*G,Dv], or what its attention keeps in their place (MLA:
// latent[S,L] and pe[S,R]).
struct LayerCache {
  Tensor k, v;
};
struct KvCache {
  std::vector<LayerCache> layers;
  int64_t length = 0, capacity = 0;
};

// A weight that an adapter changes: W' = W + scale B A, and with a magnitude m[N] (DoRA, arXiv
// 2402.09353) each row of that scaled to the length m.
struct MergedWeight {
  Param* param;
  Tensor original;  // W as it was
  Lora lora;
  Tensor magnitude;  // F32 [N]; empty: plain LoRA
};

// What tells one base from another (model/base_print.h).
struct Base {
  std::string packed;       // the type of the file's quantised tensors: NF4, Q4_K, ...; empty: none
  std::string print, type;  // of what a training run began with
  std::unordered_map<std::string, uint64_t> replaced;  // by adapters: their samples before
  int64_t weights_4bit = 0, bytes_4bit = 0;  // that quantise_frozen() packed, and what they take
};

class Model {
 public:
  virtual ~Model() = default;
  Config config;
  ParamStore params;
  Base base;
  std::vector<MergedWeight> folded;  // by adapters that the forward pass cannot keep apart (DoRA,
                                     // head, router): their value is W' in F32
  std::vector<std::string> notices;  // what the user should know about what was loaded
  std::deque<Param> fold_factors;    // what `folded` refers to
  bool recompute = false;            // keep only each block's input for backward

  // Shares each MoE layer's experts among the ranks of `comm`: owner[layer][e] holds expert e
  // (empty: a dense layer). same_tokens: every rank is given the same batches (inference).
  virtual void share_experts(const class Comm& comm, const std::vector<std::vector<int>>& owner,
                             bool same_tokens) = 0;

  // Final normalised hidden states [T,H] of a batch; aux, if given, collects each MoE layer's
  // balance loss.
  virtual Var hidden(Tape& tape, const Batch& batch, Trace& trace, std::vector<Var>* aux) = 0;
  virtual const Param& head() const = 0;
  virtual KvCache make_cache(int64_t capacity) const = 0;
  // Appends ids to the cached sequence; returns the hidden states [n,H] of the last `wanted` new
  // tokens (the prompt needs its last alone: the last layer's MLP is computed for no other).
  virtual Tensor extend(Ctx& ctx, KvCache& cache, const std::vector<int32_t>& ids,
                        int64_t wanted) = 0;
  // Appends one token to each of several sequences, whose weights are then read once: ids[i] to
  // *caches[i]. Returns the hidden states [n,H]. Up to four are computed each as if alone.
  virtual Tensor extend_each(Ctx& ctx, const std::vector<KvCache*>& caches,
                             const std::vector<int32_t>& ids) = 0;
};

// Builds the model of a folder or a .gguf file; weights stay in the mapped files, quantised ones
// are unpacked to BF16; when computing in f32 the blocks of a .gguf file to F32, exactly, while FP8
// stays BF16, as its publisher unpacks it, and NF4 the type that it names. `source` in place of
// files: `sutor init`.
std::unique_ptr<Model> load_model(const std::string& folder, Compute compute = Compute::kF32);
std::unique_ptr<Model> make_model(const Config& config,
                                  std::function<Tensor(const std::string&, const Shape&)> source);
// Throws unless kernels can read weights of this type; `where` is the folder, for the message.
void check_weight_type(const Tensor& t, const std::string& where, const std::string& name);
// What a tensor of that name is drawn from (engine/random.h).
uint64_t seed_of(uint64_t seed, std::string_view name);
// Seeded normal weights (std initializer_range; norms 1, biases 0), each tensor from (seed, name)
// alone, so order does not matter.
std::function<Tensor(const std::string&, const Shape&)> random_source(const Config& config,
                                                                      uint64_t seed, DType dtype);

}  // namespace sutor
