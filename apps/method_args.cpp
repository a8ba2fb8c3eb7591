#include "apps/method_args.h"

#include "apps/run_checkpoint.h"
#include "engine/dry_run.h"
#include "io/chat.h"
#include "io/memory.h"
#include "model/adapter_moe.h"
#include "model/base_print.h"
#include "model/esft.h"
#include "model/nf4.h"
#include "model/pesc_adapter.h"

namespace sutor {
namespace {

ExpertConfig experts_of(const Args& a, const std::string& file) {
  return read_expert_config(file, a.on("one-indexed"));
}

bool router_trains(const Args& a) {
  if (a.str("method") != "esft") return a.str("method") == "full" || a.str("method") == "pesc";
  return !a.str("experts").empty() && experts_of(a, a.str("experts")).non_expert_modules;
}

}  // namespace

void declare_balance_loss(Args& a) {
  a.choice("aux",
           "the balance loss: as published for the family, or what the PESC authors' code adds, a "
           "constant without gradient (to compare step by step)",
           "own", {"own", "authors"});
  a.real("aux-loss", "weight of the router's balance loss; 0: none", 0, 0, 10);
  a.derive(
      "aux-loss",
      [](const Args& x) -> std::string {
        try {
          Config c = read_config(x.str("MODEL"));
          return c.aux_asked && router_trains(x) ? fmt::format("{}", c.aux_alpha) : "0";
        } catch (const Error&) {
          return "0";  // whoever reads the file next says it better
        }
      },
      "config.json's where the router trains, else 0");
}

double constant_of_authors(const Args& a, const Model& model) {
  if (a.str("aux") != "authors") return 0;
  const Config& c = model.config;
  check(c.adapter_dim > 0, "--aux authors: {} is no PESC model", a.str("MODEL"));
  a.no_effect_unless(a.real("aux-loss") > 0, "aux", "--aux-loss is 0");
  return a.real("aux-loss") * static_cast<double>(c.experts) / c.route.top_k;
}

void check_balance_loss(const Args& a, Model& model) {
  const Config& c = model.config;
  bool none = c.aux == AuxLoss::kNone || c.moe_layers().empty();
  double alpha = a.real("aux-loss");
  check(alpha == 0 || !none, "--aux-loss {}: a {} model has no router to balance (allowed: 0)",
        alpha, c.model_type);
  if (a.given("aux-loss") || a.on("quiet") || none || !c.aux_asked) return;
  if (alpha > 0 && a.str("aux") == "authors")
    note(
        "balance loss of the PESC authors' code: the constant {:.4g} in every logged loss, without "
        "gradient: nothing balances the router (--aux own: {} of it, as config.json asks)\n",
        constant_of_authors(a, model), alpha);
  else if (alpha > 0)
    note("balance loss {} of the router, as config.json asks (--aux-loss 0: none)\n", alpha);
  else
    note("balance loss off: the router is frozen (--aux-loss {} turns it on)\n", c.aux_alpha);
}

void declare_method(Args& a) {
  a.choice("method",
           "what trains: the selected experts, everything, LoRA factors, or a PESC model's routers "
           "and adapters with LoRA",
           "esft", {"esft", "full", "lora", "pesc"});
  a.string("experts", "expert_cfg.json of sutor select (esft)");
  a.flag("one-indexed", "the expert_cfg.json counts layers from 1");
  a.integer("rank", "LoRA rank (pesc: 64)", 8, 1, 1 << 16);
  default_by_method(a, "rank", "8", "64");
  a.real("alpha", "LoRA alpha (scale = alpha / rank)", 16, 0, 1e6);
  a.real("lora-dropout", "of what a LoRA sees, in training (pesc: 0.1)", 0, 0, kMaxDropout);
  default_by_method(a, "lora-dropout", "0", "0.1");
  a.real("adapter-dropout", "of what a PESC model's adapters see, in training", 0, 0, kMaxDropout);
  a.derive(
      "adapter-dropout",
      [](const Args& x) -> std::string {
        try {
          return fmt::format("{}", read_config(x.str("MODEL")).adapter_dropout);
        } catch (const Error&) {
          return "0";  // whoever reads the file next says it better
        }
      },
      "config.json's");
  a.choice("quantize", "frozen linears to 4 bits in memory: NF4, double quantised", "none",
           {"none", "nf4"});
}

void default_by_method(Args& a, const char* option, const char* others, const char* pesc) {
  a.derive(option,
           [=](const Args& x) -> std::string { return x.str("method") == "pesc" ? pesc : others; });
}

void default_format(Args& a) {
  a.derive("format", [](const Args& x) -> std::string {
    if (x.str("method") != "pesc") return "template";
    try {
      return ChatTemplate::load(hub_folder(x.str("MODEL"))) ? "template" : "pesc";
    } catch (const Error&) {
      return "template";  // as above
    }
  });
}

LoraOptions lora_of(const Args& a) {
  const bool pesc = a.str("method") == "pesc";
  return {a.num("rank"), a.real("alpha"), pesc ? pesc_lora_targets() : std::vector<std::string>{},
          a.real("lora-dropout")};
}

namespace {

void choose_experts(const Args& a, Model& model, std::string& expert_cfg) {
  check(!model.config.moe_layers().empty(),
        "{}: a dense {} model has no experts for --method esft to select (allowed: full, lora)",
        model.config.where, model.config.model_type);
  const std::string& file = a.required("experts");
  ExpertConfig c = experts_of(a, file);
  check_expert_config(c, model.config.moe_layers(), model.config.experts, file, true);
  check(!c.shared_experts || model.config.shared_experts > 0,
        "{}: shared_experts is true, the model has none", file);
  for (const Param& p : model.params.all())
    if (trains(c, p.name)) model.params.train(p.name);
  check(!model.params.trainable().empty(), "{}: selects nothing", file);
  expert_cfg = to_json(c);
}

}  // namespace

LoraOptions choose_what_trains(const Args& a, Model& model, std::string& expert_cfg) {
  const std::string& method = a.str("method");
  const bool pesc = method == "pesc";
  a.no_effect_unless(method == "esft", "experts", "only --method esft selects experts");
  a.no_effect_unless(method == "esft", "one-indexed",
                     "only --method esft reads an expert_cfg.json");
  for (const char* o : {"rank", "alpha", "lora-dropout"})
    a.no_effect_unless(method == "lora" || pesc, o, "only --method lora and pesc have a LoRA");
  a.no_effect_unless(model.config.adapter_dim > 0, "adapter-dropout", "the model has no adapters");
  a.no_effect_unless(method != "full", "quantize", "--method full freezes nothing");
  LoraOptions lora = lora_of(a);
  for (const Param& p : model.params.all())
    check(
        !p.lora,
        "--adapter: {} carries a LoRA, which --method {} would neither train nor write: fold it in "
        "first (sutor merge)",
        p.name, method);
  check(model.folded.empty(),
        "--adapter: {} carries a folded LoRA, which --method {} would not write: fold it in for "
        "good first (sutor merge)",
        model.folded.empty() ? "" : model.folded.front().param->name, method);
  check(!pesc || model.config.adapter_dim > 0,
        "{}: a {} model has no adapters behind its MLPs for --method pesc to train (sutor craft "
        "makes them; allowed: {})",
        model.config.where, model.config.model_type,
        model.config.moe_layers().empty() ? "full, lora" : "esft, full, lora");
  model.config.adapter_dropout = a.real("adapter-dropout");
  model.params.freeze_all();
  if (method == "full") {
    model.params.train("*");
  } else if (method == "esft") {
    choose_experts(a, model, expert_cfg);
  } else {
    if (pesc) model.params.train(kPescTrains);
    add_lora(model, lora, static_cast<uint64_t>(a.num("seed")));
  }
  if (method != "full") record_base(model);
  if (a.str("quantize") == "nf4") {
    const int64_t before = process_bytes("RssAnon");
    const int packed = quantise_frozen(model);
    check(packed > 0, "--quantize nf4: {} has no frozen linear to pack (4 bits already?)",
          a.str("MODEL"));
    if (!a.on("quiet") && !dry_run()) {
      const auto mb = [](int64_t n) { return 1e-6 * static_cast<double>(n); };
      const Base& b = model.base;
      note(
          "{} frozen linears in 4 bits: {:.1f} M weights in {:.1f} MB, {:.2f} bits each; "
          "resident memory grew by {:.1f} MB\n",
          packed, mb(b.weights_4bit), mb(b.bytes_4bit), 8 * mb(b.bytes_4bit) / mb(b.weights_4bit),
          mb(process_bytes("RssAnon") - before));
    }
  }
  return lora;
}

}  // namespace sutor
