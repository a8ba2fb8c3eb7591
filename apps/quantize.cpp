// sutor quantize: a copy of the model with its linears in 4 bits, as bitsandbytes stores them.
// Embeddings, head, norms and routers stay as they are.
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/run_checkpoint.h"
#include "model/checkpoint.h"
#include "model/nf4_folder.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  a.choice("to", "format: NF4, double quantised", "nf4", {"nf4"});
  a.string("out", "hub folder to write");
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  check_model_folder_to_be(out);
  auto model = open_model(a);
  check(model->base.packed != "NF4",
        "{}: is in NF4 already; name the model that it was made from: packing it again would lose "
        "more of it",
        a.str("MODEL"));
  Nf4Folder done = write_nf4_folder(out, *model, hub_folder(a.str("MODEL")));
  if (a.on("json"))
    return print_json(
        {{"out", out}, {"quantised", done.packed}, {"kept", done.kept}, {"bytes", done.bytes}});
  fmt::print("{} weights in 4 bits, {} as they were: {:.1f} MB\n", done.packed, done.kept,
             static_cast<double>(done.bytes) * 1e-6);
}

}  // namespace
const Command kQuantize{"quantize", "a copy of a model in 4 bits (bitsandbytes' NF4)",
                        "sutor quantize model/ --to nf4 --out model-nf4/", declare, run};
}  // namespace sutor
