// An adapter on another base of the same shapes is refused; on a copy of its own, in another type
// or layout, it is not.
#include "model/base_print.h"

#include <filesystem>

#include "engine/quant.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/checkpoint.h"
#include "model/nf4.h"
#include "model/pesc_adapter.h"
#include "tests/command.h"
#include "tests/corruption.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kModel = "tests/goldens/esft_train/model",
                  kPesc = "tests/goldens/pesc_train/model",
                  kExpert = "model.layers.1.mlp.experts.7.*",
                  kGate = "model.layers.1.mlp.experts.7.gate_proj.weight",
                  kNorm = "model.norm.weight", kAnother = "was trained on another base";

// An adapter of what `glob` names, and with `lora` of the LoRA of q_proj (of PESC: of its targets).
std::string adapter(Model& model, const std::string& dir, const std::string& glob,
                    std::vector<std::string> lora) {
  model.params.freeze_all();
  if (!glob.empty()) model.params.train(glob);
  const LoraOptions options{2, 4, lora};
  if (!lora.empty()) add_lora(model, options, 1);
  record_base(model);
  write_adapter(dir, model, kModel, "", lora.empty() ? nullptr : &options);
  return dir;
}

// `from` with one value of `name` changed, or every tensor in another type.
std::string changed(const std::string& from, const std::string& to, const std::string& name,
                    std::optional<DType> type = {}) {
  fs::copy(from, to, fs::copy_options::recursive);
  NamedTensors tensors;
  {
    const Checkpoint files = Checkpoint::open(from);
    for (const std::string& n : files.names()) tensors.emplace_back(n, clone(files.get(n)));
  }
  for (auto& [n, t] : tensors) {
    if (n == name) {
      Tensor x = cast(t, DType::F32);
      x.f32()[3] += 1;
      t = cast(x, t.dtype);
    }
    if (type) t = cast(t, *type);
  }
  fs::remove(to + "/model.safetensors");
  save_safetensors(to + "/model.safetensors", tensors);
  return to;
}

struct Loaded {
  std::string error, notices;
};
Loaded load(const std::string& model, const std::vector<std::string>& adapters) {
  Loaded out;
  out.error = error_of([&] {
    auto m = load_model(model);
    Replaced replaced;
    for (const std::string& dir : adapters) load_adapter(*m, dir, &replaced);
    for (const std::string& s : m->notices) out.notices += s + "\n";
  });
  return out;
}

bool fits(const Loaded& l) { return l.error == "no error" && l.notices.empty(); }
bool contains(const std::string& s, const std::string& part) { return s.find(part) != s.npos; }

}  // namespace

TEST_CASE("base print: a tensor's sample is its name, shape and first values as bf16") {
  Tensor x = random({4, 100}, 1);
  const uint64_t h = sample_of("w", x);
  CHECK(sample_of("w", cast(x, DType::BF16)) == h);
  CHECK(sample_of("v", x) != h);
  CHECK(sample_of("w", x.view({8, 50})) != h);
  Tensor wide = random({4, 200}, 2);
  copy_into(wide.columns(50, 150), x);
  CHECK(sample_of("w", wide.columns(50, 150)) == h);  // strided
  for (int64_t at : {0, 255, 256}) {
    Tensor y = clone(x);
    y.f32()[at] += 0.5f;
    CHECK((sample_of("w", y) == h) == (at == 256));
  }
}

TEST_CASE("base print: ESFT, LoRA and PESC adapters know their base") {
  Folder f;
  const std::string esft = adapter(*load_model(kModel), f / "esft", kExpert, {}),
                    lora = adapter(*load_model(kModel), f / "lora", "", {"q_proj"}),
                    pesc = adapter(*load_model(kPesc), f / "pesc", kPescTrains, {"q_proj"});
  const std::string other = changed(kModel, f / "other", kNorm),
                    expert = changed(kModel, f / "expert", kGate),
                    wide = changed(kModel, f / "wide", "", DType::F32);
  for (const std::string& a : {esft, lora}) {
    CAPTURE(a);
    CHECK(fits(load(kModel, {a})));
    CHECK(fits(load(wide, {a})));
    const Loaded l = load(other, {a});
    CAPTURE(l.error);
    CHECK(contains(l.error, kAnother));
    CHECK(contains(l.error, a));
    CHECK(contains(l.error, other + "/config.json has 1-"));
    CHECK(l.error.find('\n') == l.error.npos);
  }
  // What an adapter holds itself it does not need of its base.
  CHECK(fits(load(expert, {esft})));
  CHECK(contains(load(expert, {lora}).error, kAnother));
  CHECK(fits(load(kPesc, {pesc})));
  CHECK(contains(
      load(changed(kPesc, f / "pesc_other", "model.layers.2.mlp.up_proj.weight"), {pesc}).error,
      kAnother));
  CHECK(fits(
      load(changed(kPesc, f / "router", "model.layers.1.mlp.moe_adapter.router.weight"), {pesc})));
}

TEST_CASE("base print: adapters beside each other, and one on top of another") {
  Folder f;
  auto base = load_model(kModel);
  for (int64_t i = 0; i < 5; ++i) {  // a trained expert
    Param& p = base->params.at(kGate);
    if (i == 0) p.value = cast(p.value, DType::F32);
    p.value.f32()[i] += 1;
  }
  const std::string a = adapter(*base, f / "a", kExpert, {}),
                    b = adapter(*load_model(kModel), f / "b", "model.layers.1.mlp.experts.6.*", {}),
                    alone = adapter(*load_model(kModel), f / "alone", "", {"o_proj"});
  auto with_a = load_model(kModel);
  load_adapter(*with_a, a);
  const std::string top = adapter(*with_a, f / "top", "", {"o_proj"});
  CHECK(fits(load(kModel, {a, b})));
  CHECK(fits(load(kModel, {b, a})));
  CHECK(fits(load(kModel, {a, alone})));
  CHECK(fits(load(kModel, {a, top})));
  CHECK(contains(load(kModel, {top}).error, "before it the adapters"));
}

TEST_CASE("base print: bases of few bits are not compared, published adapters not asked") {
  Folder f;
  const std::string lora = adapter(*load_model(kModel), f / "lora", "", {"o_proj"});
  auto packed = load_model(kModel);
  packed->params.freeze_all();
  quantise_frozen(*packed);
  packed->base.packed = "NF4";
  load_adapter(*packed, lora);
  REQUIRE(packed->notices.size() == 1);
  CHECK(contains(packed->notices[0], "cannot be checked"));
  CHECK(contains(packed->notices[0], "in BF16"));
  CHECK(contains(packed->notices[0], "in NF4"));
  // Trained on one: known again on the same codes, else a notice.
  auto q = load_model(kModel);
  quantise_frozen(*q);
  q->base.packed = "NF4";
  const std::string on_nf4 = adapter(*q, f / "on_nf4", "", {"o_proj"});
  auto again = load_model(kModel);
  quantise_frozen(*again);
  again->base.packed = "NF4";
  load_adapter(*again, on_nf4);
  CHECK(again->notices.empty());
  const Loaded plain = load(kModel, {on_nf4});
  CHECK(plain.error == "no error");
  CHECK(contains(plain.notices, "in NF4"));
  // No fingerprint, or one of the future.
  auto write = [&](const Metadata& metadata) {
    NamedTensors tensors;
    const Checkpoint files = Checkpoint::open(lora + "/adapter_model.safetensors");
    for (const std::string& n : files.names()) tensors.emplace_back(n, clone(files.get(n)));
    save_safetensors(lora + "/adapter_model.safetensors", tensors, metadata);
    return load(changed(kModel, f / "m" + std::to_string(metadata.size()), kNorm), {lora});
  };
  CHECK(fits(write({})));
  const Loaded future = write({{"sutor.base", "2-\n"}});
  CHECK(future.error == "no error");
  CHECK(contains(future.notices, "another version"));
}

TEST_CASE("base print: what sutor train writes is checked by every command") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string rows = " --data tests/goldens/esft_train/rows.jsonl ",
                    other = changed(kModel, f / "other", kNorm);
  auto good = [&](const std::string& command) {
    Result r = run(f, command);
    CAPTURE(command);
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    CHECK(r.err.empty());
  };
  for (const char* how : {"--method lora --rank 2", "--method lora --rank 2 --quantize nf4",
                          "--experts tests/goldens/esft_train/expert_cfg.json"}) {
    CAPTURE(how);
    fs::remove_all(f / "run");
    good("train " + kModel + rows + how +
         " --seq 64 --steps 2 --threads 1 --lr 1e-3 --save-every 2 --quiet --out " + (f / "run"));
    const std::string with = " --threads 1 --adapter " + (f / "run/adapter");
    good("eval " + kModel + rows + "--quiet" + with);
    for (const std::string& command :
         {"eval " + other + rows, "merge " + other + " --out " + (f / "x"),
          "generate " + other + " --prompt law", "score " + other + rows + " --out " + (f / "x"),
          "chat " + other})
      check_one_line(run(f, command + with), 1, {kAnother, f / "run/adapter", "other/config.json"});
    good("eval " + (f / "run/checkpoint-2") + rows + "--quiet --threads 1");
  }
  CHECK_FALSE(fs::exists(f / "x"));
}
