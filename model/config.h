#pragma once
// config.json of a hub folder, checked: what every family has, filled by its family's file (which
// reads the keys that only it knows by itself). Both transformers' v4 keys and v5's
// (rope_parameters, dtype) are read.

#include <string>
#include <vector>

#include "engine/moe.h"
#include "io/json.h"
#include "model/rope.h"

namespace sutor {

// How a router's load is balanced in training (engine/ref/balance.h).
enum class AuxLoss {
  kNone,
  kSequence,  // DeepSeek, seq_aux true: per sequence
  kBatch,     // DeepSeek, seq_aux false: the batch as one sequence
  kSwitch,    // Mixtral, Qwen, OLMoE: all layers together, without padding
};

constexpr int64_t kMaxLayers = 65536;  // what is made per layer before a weight is asked for

struct Config {
  Json json;          // as read; written back unchanged by exports
  std::string where;  // path, for messages
  std::string model_type;
  int64_t hidden = 0, layers = 0, vocab = 0, heads = 0;
  int64_t intermediate = 0;  // width of dense MLPs
  int64_t max_positions = 0;
  double norm_eps = 0, init_std = 0.02;
  bool tie_embeddings = false;
  RopeConfig rope;
  int64_t experts = 0, expert_width = 0;  // of a MoE layer; 0: a dense model
  int64_t shared_experts = 0;             // how many run for every token, as one MLP of
  int64_t shared_width = 0;               // this width
  int64_t adapter_dim = 0;  // PESC: experts are adapters of this width behind one MLP; 0: they are
                            // MLPs
  double adapter_scaling = 1, adapter_dropout = 0;
  RouteOptions route;
  std::vector<bool> sparse;  // by layer: a MoE layer; empty: none is
  AuxLoss aux = AuxLoss::kNone;
  int64_t unused_layers = 0;  // behind the last one in the file: multi-token prediction, left out
  double aux_alpha = 0;       // its published weight
  bool aux_asked = false;     // config.json asks for it in training
  std::vector<int32_t> eos;   // union of config.json and generation_config.json
  std::vector<std::string> unread;  // keys that neither the family reads nor is known to need not

  bool is_moe(int64_t layer) const { return !sparse.empty() && sparse[layer]; }
  std::vector<int> moe_layers() const;
};

Config read_config(const std::string& folder_or_file);

// Defaults that differ between families.
struct Defaults {
  int64_t max_positions = 2048;
  double norm_eps = 1e-6, rope_theta = 10000;
  std::vector<std::string> rope_types{"default", "linear", "dynamic", "yarn", "llama3"};
};
// What all families have: sizes, norms, activation, RoPE.
void read_common(const Reader& r, Config& c, const Defaults& defaults);
// Experts of a MoE family: their number, width and top-k, each under any of its names; whether the
// chosen weights are normalised is the family's to say.
void read_experts(const Reader& r, Config& c, int64_t width);
// DeepSeek's balance loss: aux_loss_alpha, seq_aux.
void read_sequence_loss(const Reader& r, Config& c);
// The Switch-type one: router_aux_loss_coef, output_router_logits.
void read_switch_loss(const Reader& r, Config& c, double alpha);
// decoder_sparse_step and mlp_only_layers (Qwen): which layers are MoE layers.
void read_sparse_layers(const Reader& r, Config& c);
// n_group, topk_group: experts come in groups, of which some are eligible.
void read_groups(const Reader& r, Config& c);

}  // namespace sutor
