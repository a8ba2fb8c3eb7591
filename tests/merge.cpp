// sutor merge from outside: an ESFT adapter merges bit by bit; of a LoRA every stored weight is the
// nearest to W + s B A, and the logits agree in float32.
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/checkpoint.h"
#include "model/lora.h"
#include "model/run_state.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

const std::string kGolden = "tests/goldens/esft_train", kModel = kGolden + "/model";

void must(const Folder& f, const std::string& arguments) {
  Result r = run(f, arguments);
  CAPTURE(arguments);
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
}

Tensor logits(const Folder& f, const std::string& model, const std::string& dtype) {
  Tensor ids = Checkpoint::open(kGolden + "/golden.safetensors").get("input_ids");
  save_safetensors(f / "in.safetensors", {{"input_ids", ids.slice(0, 4).view({8, ids.cols()})}});
  must(f, "trace " + model + " --dtype " + dtype + " --input " + (f / "in.safetensors") +
              " --out " + (f / "t.safetensors"));
  return Checkpoint::open(f / "t.safetensors").get("logits");
}

}  // namespace

TEST_CASE("merge: an ESFT adapter gives the same logits loaded, merged, and in the trained model") {
  if (binary() == nullptr) return;
  Folder f;
  std::string data =
      " --data " + kGolden + "/rows.jsonl --steps 3 --seq 64 --lr 1e-3 --dtype bf16 --quiet";
  must(f, "train " + kModel + data + " --experts " + kGolden +
              "/expert_cfg.json --save-every 3 --out " + (f / "run"));
  must(f, "merge " + kModel + " --adapter " + (f / "run/adapter") + " --out " + (f / "merged"));
  // The trained model itself: base with the run's last masters, rounded as the trainer rounds them.
  auto trained = load_model(kModel);
  Checkpoint adapter = Checkpoint::open(f / "run/adapter");
  for (const std::string& name : adapter.names()) trained->params.train(name);
  trained->params.prepare_training(Compute::kBF16);
  std::string id = get<std::string>(read_json_file(f / "run/checkpoint-3/state.json"), "run", "");
  CHECK(read_state(f / "run/checkpoint-3", *trained, id) == 3);
  write_model(f / "trained", *trained, kModel);
  for (const char* dtype : {"bf16", "f32"}) {
    Tensor a = logits(f, f / "trained", dtype), b = logits(f, f / "merged", dtype),
           c = logits(f, kModel + " --adapter " + (f / "run/adapter"), dtype),
           base = logits(f, kModel, dtype);
    CHECK(same_bits(a, b));
    CHECK(same_bits(a, c));
    CHECK_FALSE(same_bits(a, base));
  }
}

TEST_CASE("merge: of a LoRA every weight is the nearest to W + s B A") {
  if (binary() == nullptr) return;
  Folder f;
  must(f, "train " + kModel + " --data " + kGolden +
              "/rows.jsonl --method lora --rank 4 --alpha 32" +
              " --steps 5 --lr 1e-2 --seq 64 --quiet --out " + (f / "run"));
  Result r = run(f, "merge " + kModel + " --adapter " + (f / "run/adapter") + " --json --out " +
                        (f / "merged"));
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  Json j = parse_json(r.out, "merge");
  CHECK(get<double>(j, "logits_change_unrounded_f32", "") <= 1e-5);
  MESSAGE("a LoRA merged: logits change by ", get<double>(j, "logits_change_unrounded_f32", ""),
          " of the largest before rounding, ", get<double>(j, "logits_change", ""), " after");
  Checkpoint base = Checkpoint::open(kModel), merged = Checkpoint::open(f / "merged"),
             lora = Checkpoint::open(f / "run/adapter/adapter_model.safetensors");
  int weights = 0, changed = 0;
  for (const std::string& name : base.names()) {
    CAPTURE(name);
    std::string key = "base_model.model." + name.substr(0, name.size() - 7) + ".lora_";
    Tensor w = base.get(name), m = merged.get(name);
    if (!lora.has(key + "A.weight")) {
      CHECK(same_bits(w, m));
      continue;
    }
    ++weights;
    Tensor a = lora.get(key + "A.weight"), b = lora.get(key + "B.weight");
    REQUIRE(m.dtype == DType::BF16);
    bool nearest = true;
    for (int64_t n = 0; n < w.dim(0); ++n)
      for (int64_t k = 0; k < w.dim(1); ++k) {
        long double exact = static_cast<float>(w.as<bf16>()[n * w.ld + k]);
        for (int64_t i = 0; i < a.dim(0); ++i) exact += 8.0L * b.row(n)[i] * a.row(i)[k];
        bf16 stored = m.as<bf16>()[n * m.ld + k];
        changed += stored.bits != w.as<bf16>()[n * w.ld + k].bits;
        auto off = [&](int ulps) {
          bf16 x = stored;
          x.bits = static_cast<uint16_t>(x.bits + ulps);
          return std::abs(static_cast<long double>(static_cast<float>(x)) - exact);
        };
        nearest = nearest && off(0) <= off(1) && ((stored.bits & 0x7fff) == 0 || off(0) <= off(-1));
      }
    CHECK(nearest);
  }
  CHECK(weights > 100);
  CHECK(changed > 1000);
}

TEST_CASE("merge: rounding happens once, and a wrong weight is found") {
  auto model = load_model(kModel);
  LoraOptions opt{2, 2, {"model.layers.0.self_attn.o_proj"}};
  REQUIRE(add_lora(*model, opt, 1) == 1);
  Param& w = model->params.at("model.layers.0.self_attn.o_proj.weight");
  Tensor base = zeros(w.value.shape, DType::BF16);
  // 1 + 2^-8 lies midway between two bf16; a little more must go up. In f32 the little is lost, and
  // the tie would go to even, down.
  base.as<bf16>()[0] = bf16(1.0f);
  w.value = base;
  std::fill_n(w.lora->a->value.f32(), w.lora->a->value.numel(), 0.0f);
  w.lora->a->value.row(0)[0] = 1;
  w.lora->b->value.row(0)[0] = std::ldexp(1.0f, -8);
  w.lora->a->value.row(1)[0] = 1;
  w.lora->b->value.row(0)[1] = std::ldexp(1.0f, -30);
  auto merged = merge_unrounded(*model);
  REQUIRE(merged.size() == 1);
  CHECK(w.value.dtype == DType::F32);
  round_merged(merged);
  CHECK(static_cast<float>(w.value.as<bf16>()[0]) == 1 + std::ldexp(1.0f, -7));
  check_merged(merged[0], w.value);
  w.value.as<bf16>()[0] = bf16(1.0f);
  CHECK_THROWS_WITH_AS(check_merged(merged[0], w.value), doctest::Contains("is not the nearest"),
                       Error);
}

TEST_CASE("merge: a float16 weight is rounded once, from its smallest number to its largest") {
  auto model = load_model(kModel);
  LoraOptions opt{1, 1, {"model.layers.0.self_attn.o_proj"}};
  REQUIRE(add_lora(*model, opt, 1) == 1);
  Param& w = model->params.at("model.layers.0.self_attn.o_proj.weight");
  std::fill_n(w.lora->a->value.f32(), w.lora->a->value.numel(), 0.0f);
  w.lora->a->value.row(0)[0] = 1;
  struct Row {
    float weight, added;
    uint16_t want;
  };
  const Row rows[] = {{1, std::ldexp(1.0f, -11), 0x3c00},    // a tie goes to even
                      {1, std::ldexp(1.5f, -11), 0x3c01},    // up
                      {-1, std::ldexp(-3.0f, -11), 0xbc02},  // a tie goes to even, away from zero
                      {0, std::ldexp(1.0f, -24), 0x0001},    // the smallest
                      {0, std::ldexp(1.0f, -25), 0x0000},    // half of it
                      {65504, -16, 0x7bfe},                  // below the largest, a tie
                      {std::ldexp(1.0f, -14), -1e-9f, 0x0400},  // the smallest normal one
                      {0.5f, std::ldexp(1.0f, -30), 0x3800}};   // lost in float32 already
  Tensor base = zeros(w.value.shape, DType::F16);
  for (int n = 0; const Row& r : rows) {
    base.as<f16>()[n * base.ld].bits = std::bit_cast<uint16_t>(static_cast<_Float16>(r.weight));
    w.lora->b->value.row(n++)[0] = r.added;
  }
  w.value = base;
  auto merged = merge_unrounded(*model);
  round_merged(merged);
  REQUIRE(w.value.dtype == DType::F16);
  for (int n = 0; const Row& r : rows) {
    CAPTURE(n);
    CHECK(w.value.as<f16>()[n++ * w.value.ld].bits == r.want);
  }
  check_merged(merged[0], w.value);
  w.value.as<f16>()[w.value.ld].bits = 0x3c00;
  CHECK_THROWS_WITH_AS(check_merged(merged[0], w.value), doctest::Contains("nearest F16"), Error);
  // The same of a cast.
  Tensor x = zeros({5});
  const float values[] = {1 + std::ldexp(1.0f, -11), 1 + std::ldexp(3.0f, -11), -1e-8f, 65519,
                          65520};
  std::copy(std::begin(values), std::end(values), x.f32());
  const uint16_t want[] = {0x3c00, 0x3c02, 0x8000, 0x7bff, 0x7c00};
  Tensor half = cast(x, DType::F16);
  for (int i = 0; i < 5; ++i) CHECK(half.as<f16>()[i].bits == want[i]);
}

TEST_CASE("merge: a checkpoint of a run of ESFT or LoRA; what is told is told in float32") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string data = " --data " + kGolden + "/rows.jsonl --seq 64 --steps 2 --lr 1e-2 " +
                           "--threads 1 --dtype bf16 --save-every 1 --quiet --out ";
  for (const std::string& how :
       {"--experts " + kGolden + "/expert_cfg.json", std::string("--method lora")}) {
    CAPTURE(how);
    for (const char* dir : {"run", "a", "b"}) std::filesystem::remove_all(f / dir);
    must(f, "train " + kModel + " " + how + data + (f / "run"));
    must(f, "merge " + (f / "run/checkpoint-2") + " --out " + (f / "a"));
    Result r = run(f, "merge " + kModel + " --dtype bf16 --adapter " + (f / "run/adapter") +
                          " --out " + (f / "b"));
    CAPTURE(r.out);
    CHECK(r.code == 0);
    CHECK(read_file(f / "a/model.safetensors") == read_file(f / "b/model.safetensors"));
    if (how.starts_with("--exp")) continue;
    CHECK(r.out.find("float32 logits by") != std::string::npos);
    CHECK(r.out.find("rounding them to BF16 by") != std::string::npos);
    std::filesystem::remove_all(f / "b");
    Result exact = run(f, "merge " + kModel + " --dtype f32 --adapter " + (f / "run/adapter") +
                              " --out " + (f / "b"));
    CHECK(exact.out == r.out);  // whatever the machine is fast at
  }
  check_one_line(run(f, "merge " + kModel + " --out " + (f / "x")), 2, {"--adapter is missing"});
}
