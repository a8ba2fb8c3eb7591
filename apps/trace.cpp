// sutor trace: a named forward and backward on given ids.
#include "model/trace.h"

#include "apps/commands.h"
#include "apps/common.h"
#include "io/file.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  a.string("input", "safetensors with input_ids I64 [B,T], optional labels, attention_mask");
  a.string("out", "safetensors to write");
  a.flag("grads", "gradients of the loss for every parameter");
  a.flag("aux", "the balance loss, and gradients of loss + balance loss");
  a.integer("greedy", "continue the first 8 ids of row 0 by so many tokens", 0, 0, 1 << 20);
  a.string("activations", "glob over activation names, e.g. 'model.layers.*'");
}

void run(const Args& a) {
  const std::string &in = a.required("input"), &out = a.required("out");
  check_not_an_input(out, {a.str("input")});
  check_can_write(out);
  Ctx ctx = a.context();
  auto model = open_model(a);
  TraceRequest request{a.on("grads"), a.num("greedy"), a.on("aux"), a.str("activations")};
  auto tensors = trace_model(ctx, *model, Checkpoint::open(in), request);
  save_safetensors(out, tensors);
  if (!a.on("json")) return;
  Json shapes = Json::object();
  for (const auto& [name, t] : tensors) shapes[name] = t.shape;
  print_json({{"out", out}, {"tensors", shapes}});
}

}  // namespace
const Command kTrace{
    "trace", "logits, loss, gradients and activations for comparison",
    "sutor trace model/ --input in.safetensors --out out.safetensors --grads --dtype f32", declare,
    run};
}  // namespace sutor
