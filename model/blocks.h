#pragma once
// What families are put together from: MLP, router, MoE block. Widths and switches
// come from Config or an options struct; names of parameters are those of the checkpoint.

#include <optional>

#include "model/model.h"

namespace sutor {

// y = down(silu(gate x) * up x); names below the scope.
struct MlpOptions {
  const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";
  bool bias = false;
};
struct Mlp {
  Param *gate, *up, *down;
  Param *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
  Mlp(Scope s, int64_t hidden, int64_t width, const MlpOptions& opt = {});
  Var operator()(const Var& x) const;
};

// Sizes and routing: Config's experts, expert_width, shared_width and route.
struct MoeOptions {
  const char* block = "mlp";     // the block's name in a layer; dense layers are "mlp" everywhere
  MlpOptions expert;             // names below experts.N
  const char* shared = nullptr;  // name of the expert that every token takes
  bool shared_gate = false;      // times sigmoid(shared_expert_gate x)
  const char* select_bias = nullptr;  // added to the scores for the choice alone (not trained)
};
struct Sequences {
  std::vector<int32_t> rows;  // first token of each row, and T
  Tensor real;                // I32 [T]: 0 = padding; empty: none
};
// Chooses a layer's experts for each token, and hands the choice to the trace.
class Router {
 public:
  // `name` of its weight [E,H] below the scope, and of the bias for the choice, if it has one.
  Router(const Config& config, Scope s, int layer, const char* name,
         const char* select_bias = nullptr);
  Routing operator()(const Var& x, Trace& trace) const;
  // aux, if given, receives the layer's balance loss; AuxLoss::kSwitch: its load (engine/ops.h).
  void balance(const Routing& r, const Sequences& sequences, std::vector<Var>* aux) const;

 private:
  const Config& c_;
  int layer_;
  Param *weight_, *select_bias_ = nullptr;
};

class MoeBlock {
 public:
  MoeBlock(const Config& config, Scope s, int layer, const MoeOptions& opt);
  Routing route(const Var& x, Trace& trace) const { return router_(x, trace); }
  Var operator()(const Var& x, const Sequences& sequences, Trace& trace,
                 std::vector<Var>* aux) const;
  void share(const ExpertRanks& ranks);  // the experts, among ranks

 private:
  Router router_;
  Param* shared_gate_ = nullptr;
  ExpertBank bank_;
  std::optional<Mlp> shared_;
};

// A sequence in a layer's cache, to which a token is added.
struct Cached {
  LayerCache* cache;
  int64_t length;  // before it
  Tensor start;    // I32 [length + 1]
};

// Where the tokens of a batch stand: what every attention needs beside its input.
struct Places {
  RopeAngles angles;
  Tensor start;  // I32: first token that each may see
};

}  // namespace sutor
