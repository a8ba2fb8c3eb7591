#pragma once
// Every differentiable op on one page. Each lives in engine/ops/<stem>.cpp: the forward call, and
// its derivative beside it. Shapes as in engine/kernels.def; errors name the parameter and both
// shapes.

#include <memory>

#include "engine/moe.h"
#include "engine/tape.h"

namespace sutor {

Var linear(const Var& x, const Param& w,
           const Param* bias = nullptr);         // [T,K] -> [T,N]; adds the LoRA term if w has one
Var linear_exact(const Var& x, const Param& w);  // in f32 whatever the run computes in (routers)
Var rms_norm(const Var& x, const Param& w, float eps);

struct RopeAngles {  // [T, D/2], by the position of each token
  Tensor cos, sin;
};
// MLA's query: rotates the last `rope` columns of each head of q[T*N, P+R]. For keys:
// rope(pe[T,R]).
Var rope_tail(const Var& q, int64_t rope, const RopeAngles& angles, bool interleaved);
Var mla_key(const Var& nope, const Var& pe, int heads);  // [T*N,P], [T,R] -> [T*N,P+R]
Var attention(const Var& q, const Var& k, const Var& v, const Tensor& start, int heads,
              int kv_heads, float scale);

Var add(const Var& a, const Var& b);
Var scaled(const Var& x, float factor);
Var swiglu(const Var& gate, const Var& up);
Var gated(const Var& x, const Var& gate);  // x[T,H] sigmoid(gate[T,1])
Var clamped(const Var& x, float limit);    // to [-limit, limit]
Var embed(Tape& tape, const Tensor& ids, const Param& w);
Var gather(const Var& x, const Tensor& idx);        // rows; idx I32 [n]
Var columns(const Var& x, int64_t lo, int64_t hi);  // views: no copy, no node
Var reshape(const Var& x, Shape shape);

struct Routing {
  Var probs;      // [T,E]
  Var weight;     // [T,K]
  Tensor expert;  // I32 [T,K]
};
Routing moe_route(const Var& logits, const Tensor& bias, const RouteOptions& opt);

// A layer's experts: parameters, and the table of views that the kernels take.
struct ExpertBank {
  std::vector<Param*> gate, up, down;
  std::shared_ptr<const struct ExpertRanks> ranks;  // engine/expert_ranks.h; none: all are here
  ExpertWeights values() const;
  // Empty tensors where frozen or on another rank. `source`: the rank of whose tokens.
  ExpertWeights grads(int source = 0) const;
  bool any_trainable() const;  // on any rank
  bool any_lora() const;
};
Var moe_ffn(const Var& x, const Routing& routing, const ExpertBank& bank);
// The same in two steps where ranks share the experts: what is called between them (a shared
// expert) runs while tokens travel, in backward too. Bit by bit moe_ffn on one rank.
struct ExpertCall;
struct MoeFfnBegun {
  Var y;                             // the result, where it is there already
  std::shared_ptr<ExpertCall> call;  // else what is under way
  Var sent;
};
MoeFfnBegun moe_ffn_begin(const Var& x, const Routing& routing, const ExpertBank& bank);
Var moe_ffn_end(const MoeFfnBegun& begun);
// The same for experts that carry LoRA; moe_ffn calls it.
Var moe_ffn_lora(const Var& x, const Routing& routing, const ExpertBank& bank,
                 std::shared_ptr<MoeIndex> index);

// The adapters of a PESC layer behind its MLP, x being the MLP's output (engine/ref/adapter.h).
struct AdapterBank {
  std::vector<Param*> down, up;
  AdapterWeights values() const;
  AdapterWeights grads() const;  // empty tensors where frozen
  bool any_trainable() const;
};
// x + scale sum_k weight Up_e gelu(Down_e x); dropout of x, of each expert by itself, in training.
Var adapter_moe(const Var& x, const Routing& routing, const AdapterBank& bank, float scale,
                float dropout);
// What the dropout at a place of the model draws from: p, and a hash of the step's seed and `place`
// (the name of a parameter); none in evaluation.
Dropout dropout_at(const Ctx& ctx, float p, std::string_view place);

// Balance losses (engine/ref/balance.h). rows: first token of each row, and T. normalize: of
// sigmoid scores (DeepSeek-V3).
Var moe_balance_loss(const Routing& routing, const std::vector<int32_t>& rows,
                     bool normalize = false);
// [2,E] of one layer: how often each expert is chosen, the sum of its probabilities (this one has a
// gradient), over the tokens with real[t] != 0 (I32 [T]; empty: all). Of all layers' loads
// together: the Switch-type loss.
Var moe_load(const Routing& routing, const Tensor& real);
Var switch_balance_loss(const std::vector<Var>& loads, int top_k);

// scale * sum of -log p(target) over the tokens with target >= 0. Logits are made in chunks and
// never kept; only trained tokens are multiplied with the head. nll[T], if given, receives each
// token's loss (0 where not trained).
Var lm_loss(const Var& x, const Param& head, const Tensor& targets, float scale, Tensor nll = {});
int64_t loss_chunk_rows(int64_t vocab);  // rows of a chunk

}  // namespace sutor
