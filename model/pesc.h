#pragma once
// Parameter-Efficient Sparsity Crafting (arXiv 2401.02731): a dense model becomes sparse by a
// router and adapters as experts behind each of its MLPs (model/adapter_moe.h). Adapters begin as
// zero, so the crafted model computes what the dense one does.

#include "model/model.h"

namespace sutor {

struct CraftOptions {
  int64_t experts = 8, top_k = 2, adapter_dim = 512;
  double scaling = 0.25;  // moe_scaling
  double dropout = 0.1;   // adapter_dropout
  bool balance = true;    // output_router_logits: whether training balances the experts' load
  uint64_t seed = 0;
};

// The constants of the authors' train_moe.py; their merge script and models have others (512,
// 0.25).
CraftOptions reference_constants();

// Throws unless there is a rule to craft models of this config.
void check_craftable(const Config& dense);

// Tensors of `dense` itself, of its type the new ones: router and adapter_down
// U(-1/sqrt H, 1/sqrt H), seeded by name, adapter_up 0. The config in the keys of transformers 4,
// which the authors' code reads; notices say where it cannot run the model. `where`: the path it
// will have, for messages.
std::unique_ptr<Model> craft(Model& dense, const CraftOptions& opt, const std::string& where);

// Where the authors' code runs a PESC model of this config otherwise, or not at all; a line each.
std::vector<std::string> beyond_authors(const Config& config);

}  // namespace sutor
