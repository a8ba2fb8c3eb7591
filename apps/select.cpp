// sutor select: ESFT's choice of experts from their scores.
#include "apps/commands.h"
#include "apps/common.h"
#include "io/file.h"
#include "model/esft.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional("SCORES", "scores.json of sutor score");
  a.choice("score", "which score", "token", {"token", "gate"});
  a.real("top-p",
         "take experts until their cumulative score reaches this (default 0.2 token, 0.1 gate, the "
         "paper's)",
         0.2, 0, 1);
  a.derive("top-p", [](const Args& x) { return x.str("score") == "token" ? "0.2" : "0.1"; });
  a.string("out", "expert_cfg.json to write");
  a.flag("train-shared", "train the shared experts too");
  a.flag("train-non-expert", "train attention, norms, router, embeddings and head too");
  a.integer("random", "instead draw as many experts per layer with this seed (not given: off)", 0,
            0, INT64_MAX / 2);
  a.flag("json", "the summary as JSON");
  a.flag("quiet", "no progress on stderr");
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  check_not_an_input(out, {a.str("SCORES")});
  Scores scores = read_scores(a.str("SCORES"));
  const LayerScores& chosen = a.str("score") == "token" ? scores.token : scores.gate;
  double p = a.real("top-p");
  ExpertConfig c = select_experts(chosen, p);
  if (a.given("random")) c = randomize(c, chosen, static_cast<uint64_t>(a.num("random")));
  c.shared_experts = a.on("train-shared");
  c.non_expert_modules = a.on("train-non-expert");
  write_file_atomic(out, to_json(c));
  Json layers = Json::object();
  size_t total = 0;
  for (const auto& [layer, ids] : c.experts) {
    layers[std::to_string(layer)] = ids.size();
    total += ids.size();
  }
  if (a.on("json"))
    return print_json(
        {{"score", a.str("score")}, {"top_p", p}, {"experts", total}, {"per_layer", layers}});
  fmt::print("{} experts in {} layers ({:.2f} per layer), {} by {} score, p = {}\n", total,
             c.experts.size(), static_cast<double>(total) / static_cast<double>(c.experts.size()),
             a.given("random") ? "drawn at random, as many as" : "chosen", a.str("score"), p);
}

}  // namespace
const Command kSelect{"select", "choose a task's experts from their scores",
                      "sutor select scores.json --score token --top-p 0.2 --out expert_cfg.json",
                      declare, run};
}  // namespace sutor
