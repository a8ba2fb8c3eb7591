// sutor craft: a dense model made sparse (PESC), ready to be trained. Before the folder gets its
// name, the logits of what is in it are proved to be the dense model's, bit by bit.
#include <filesystem>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/probe.h"
#include "apps/run_checkpoint.h"
#include "io/gguf_tokenizer.h"
#include "model/adapter_moe.h"
#include "model/checkpoint.h"
#include "model/gguf.h"
#include "model/pesc.h"

namespace sutor {
namespace {

constexpr const char* kConstants[] = {"experts", "top-k", "adapter-dim", "moe-scaling",
                                      "adapter-dropout"};

void declare(Args& a) {
  declare_model(a);
  const CraftOptions d;
  a.integer("experts", "adapters of a layer", d.experts, 1, 1 << 16);
  a.integer("top-k", "of them that a token takes", d.top_k, 1, 1 << 16);
  a.integer("adapter-dim", "their width", d.adapter_dim, 1, 1 << 20);
  a.real("moe-scaling", "what their sum is multiplied with", d.scaling, 1e-6, 1e6);
  a.real("adapter-dropout", "of their input, in training", d.dropout, 0, kMaxDropout);
  a.flag("reference-constants",
         "those of the authors' train_moe.py: 8 experts, top-2, width 64, scaling 1, dropout 0.1, "
         "no balance loss");
  a.string("out", "hub folder to write");
}

CraftOptions options(const Args& a) {
  bool reference = a.on("reference-constants");
  for (const char* o : kConstants)
    a.no_effect_unless(!reference, o, "--reference-constants says it");
  CraftOptions opt;
  if (reference) {
    opt = reference_constants();
  } else {
    opt.experts = a.num("experts");
    opt.top_k = a.num("top-k");
    opt.adapter_dim = a.num("adapter-dim");
    opt.scaling = a.real("moe-scaling");
    opt.dropout = a.real("adapter-dropout");
  }
  if (opt.top_k > opt.experts)
    throw UsageError(
        fmt::format("--top-k is {}, --experts {}: a token cannot take more than there "
                    "are",
                    opt.top_k, opt.experts));
  opt.seed = static_cast<uint64_t>(a.num("seed"));
  return opt;
}

bool has_tokenizer_files(const std::string& dir) {
  for (const char* name : {"tokenizer.json", "tokenizer.model"})
    if (std::filesystem::exists(std::filesystem::path(dir) / name)) return true;
  return false;
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  CraftOptions opt = options(a);
  check_model_folder_to_be(out);
  const std::string base = hub_folder(a.str("MODEL"));
  check_craftable(read_config(base));  // before gigabytes are unpacked
  check(!is_gguf(base) || has_tokenizer(GgufFile(base)),
        "{}: has no tokenizer (tokenizer.ggml.model), so the crafted model would have none", base);
  if (!is_gguf(base) && !has_tokenizer_files(base) && !a.on("quiet"))
    note("{}: has no tokenizer (tokenizer.json, tokenizer.model), so neither has {}\n", base, out);
  Ctx ctx = a.context(), exact = cpu_context(Compute::kF32);
  auto dense = open_model(a);
  auto model = craft(*dense, opt, (std::filesystem::path(out) / "config.json").string());
  for (const std::string& s : model->notices)
    if (!a.on("quiet")) note("{}\n", s);
  int64_t parameters = 0, added = 0;
  for (const Param& p : model->params.all()) {
    parameters += p.value.numel();
    if (!dense->params.has(p.name)) added += p.value.numel();
  }
  write_model(out, *model, base, [&](const std::string& dir) {
    auto stored = load_model(dir);
    for (Ctx* c : {&exact, &ctx})
      check(change(Probe(*c, *dense).logits, Probe(*c, *stored).logits).diff == 0,
            "{}: has other logits than the dense model: nothing written", out);
  });
  const Config& c = model->config;
  if (a.on("json"))
    return print_json({{"out", out},
                       {"model_type", c.model_type},
                       {"parameters", parameters},
                       {"added_parameters", added},
                       {"experts", c.experts},
                       {"top_k", c.route.top_k},
                       {"adapter_dim", c.adapter_dim},
                       {"moe_scaling", c.adapter_scaling},
                       {"adapter_dropout", c.adapter_dropout}});
  fmt::print(
      "crafted {} from {}: {}, {} experts of width {}, top-{}, {:.3f} M parameters, of which "
      "{:.3f} M new; the dense model's logits, bit by bit\n",
      out, dense->config.model_type, c.model_type, c.experts, c.adapter_dim, c.route.top_k,
      static_cast<double>(parameters) * 1e-6, static_cast<double>(added) * 1e-6);
}

}  // namespace
const Command kCraft{
    "craft", "a dense model made sparse: a router and adapters behind each MLP (PESC)",
    "sutor craft llama/ --experts 8 --top-k 2 --adapter-dim 512 --out camel/", declare, run};
}  // namespace sutor
