// NF4: what bitsandbytes stored is read as it reads it; what we store is what it stores
// (tests/goldens/make_nf4.py).
#include "model/nf4.h"

#include <doctest/doctest.h>

#include "engine/quant.h"
#include "io/memory.h"
#include "io/safetensors.h"
#include "model/lora.h"
#include "model/model.h"
#include "tests/command.h"
#include "tests/corruption.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {
const std::string kGoldens = "tests/goldens/nf4/";

std::shared_ptr<const Weights> open(const std::string& file) {
  return std::make_shared<Checkpoint>(Checkpoint::open(file));
}
}  // namespace

TEST_CASE("nf4: reads as bitsandbytes does") {
  auto got = nf4_weights(open(kGoldens + "packed.safetensors")),
       want = open(kGoldens + "unpacked.safetensors");
  CHECK(got->names().size() == want->names().size());
  for (const std::string& name : want->names()) {
    CAPTURE(name);
    CHECK(got->info(name + ".weight").shape == want->info(name).shape);
    CHECK(same_bits(unpacked(got->get(name + ".weight")), want->get(name)));
  }
}

// Byte for byte, but where bitsandbytes itself depends on the machine: the mean of many maxima
// (torch adds them in vectors; ours is the double's), and maxima halfway between two codes of the
// 8-bit map (its CPU code takes some to the farther one, its CUDA code and ours to the nearer).
TEST_CASE("nf4: stores as bitsandbytes does") {
  auto want = open(kGoldens + "packed.safetensors"), source = open(kGoldens + "source.safetensors");
  for (const std::string& name : source->names())
    for (const auto& [key, t] : packed_nf4(name + ".weight", source->get(name))) {
      CAPTURE(key);
      REQUIRE(want->has(key));
      Tensor w = want->get(key);
      bool few = !name.starts_with("long") && name != "a.float32";
      if (few || key.ends_with("map") || key.ends_with(".weight")) {
        CHECK(same_bits(t, w));
      } else if (key.ends_with("__nf4")) {
        auto offset = [&](const Tensor& s) {
          std::string_view text(reinterpret_cast<const char*>(s.data), s.nbytes());
          return get<double>(parse_json(text, key), "nested_offset", key);
        };
        CHECK(offset(t) == doctest::Approx(offset(w)).epsilon(1e-6));
      } else if (key.ends_with(".absmax")) {
        int other = 0;
        for (int64_t i = 0; i < t.numel(); ++i) {
          int d = t.as<uint8_t>()[i] - w.as<uint8_t>()[i];
          CHECK(std::abs(d) <= 1);
          other += d != 0;
        }
        CHECK(other <= t.numel() / 100);
      } else {
        CHECK(near(dense(t), dense(w), 1e-6));
      }
    }
}

TEST_CASE("nf4: sutor quantize writes what loads as the nearest codes") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f, "quantize tests/goldens/deepseek_v2/lite --out " + (f / "q") + " --quiet");
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  auto base = load_model("tests/goldens/deepseek_v2/lite"), quantised = load_model(f / "q");
  auto files = open(f / "q");
  int packed = 0;
  for (const Param& p : base->params.all()) {
    CAPTURE(p.name);
    Tensor now = unpacked(quantised->params.at(p.name).value);
    if (!is_linear(p)) {
      CHECK(same_bits(now, p.value));
      continue;
    }
    ++packed;
    CHECK(files->info(p.name).dtype == "U8");
    Tensor want = empty(p.value.shape, p.value.dtype);
    unpack_nf4(want, pack_nf4(p.value));
    CHECK(same_bits(now, want));
    CHECK(near(dense(now), dense(p.value), 0.2));
  }
  CHECK(packed > 0);
  Json config = read_json_file(f / "q/config.json");
  CHECK(config["quantization_config"]["quant_method"] == "bitsandbytes");
}

TEST_CASE("nf4: init --weights NF4 is init and quantize, byte for byte") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string config =
      "init tests/goldens/deepseek_v2/lite/config.json --seed 3 --quiet --out ";
  REQUIRE(run(f, config + (f / "wide")).code == 0);
  REQUIRE(run(f, "quantize " + (f / "wide") + " --quiet --out " + (f / "then")).code == 0);
  Result r = run(f, config + (f / "once") + " --weights NF4");
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  for (const char* name : {"/model.safetensors", "/config.json"})
    CHECK(read_file((f / "once") + name) == read_file((f / "then") + name));
}

TEST_CASE("nf4: sutor quantize takes the checkpoint of a run, with its base's tokenizer") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f,
                 "train tests/goldens/esft_train/model --data tests/goldens/esft_train/rows.jsonl"
                 " --method full --seq 512 --steps 1 --save-every 1 --threads 1 --quiet --out " +
                     (f / "run"));
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  REQUIRE(run(f, "quantize " + (f / "run/checkpoint-1") + " --quiet --out " + (f / "q")).code == 0);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    CHECK(std::filesystem::exists(f / "q" + "/" + name));
}

TEST_CASE("nf4: NaN and Inf are not packed away") {
  for (float odd : {std::nanf(""), INFINITY, -INFINITY})
    for (int64_t at : {0, 63, 64, 129}) {
      CAPTURE(at);
      Tensor w = random({2, 65}, 1);
      w.f32()[at] = odd;
      CHECK(error_of([&] { packed_nf4("some.weight", w); }).find("some.weight: holds NaN or Inf") !=
            std::string::npos);
    }
  auto model = load_model("tests/goldens/llama/biased");
  model->params.freeze_all();
  Param& p = model->params.at("model.layers.1.mlp.up_proj.weight");
  p.value = cast(p.value, DType::F32);
  p.value.f32()[p.value.numel() - 1] = NAN;
  CHECK(error_of([&] {
          quantise_frozen(*model);
        }).find("model.layers.1.mlp.up_proj.weight: holds NaN or Inf") != std::string::npos);
}

// 4 bits, a byte per 64 weights and a float per 256 of those bytes: 4.127 bits; and no copy stays.
TEST_CASE("nf4: a packed base takes 4.2 bits a weight, resident") {
  Folder f;
  f.file("c.json", R"({"model_type": "llama", "vocab_size": 300, "hidden_size": 1024,
    "intermediate_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 8,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 64})");
  REQUIRE(run(f, "init " + (f / "c.json") + " --out " + (f / "m")).code == 0);
  auto model = load_model(f / "m");
  model->params.freeze_all();
  const int64_t before = process_bytes("RssAnon");
  REQUIRE(quantise_frozen(*model) == 14);
  const double weights = 2 * (4 * 1024 * 1024 + 3 * 1024 * 4096);
  CHECK(static_cast<double>(model->base.weights_4bit) == weights);
  CHECK(8 * static_cast<double>(model->base.bytes_4bit) / weights ==
        doctest::Approx(4.127).epsilon(1e-3));
  CHECK(8 * static_cast<double>(process_bytes("RssAnon") - before) / weights < 4.2);
}

TEST_CASE("nf4: corruptions") {
  Folder f;
  Tensor w = random({4, 64}, 1);
  auto with = [&](const std::function<void(NamedTensors&)>& damage) {
    NamedTensors t = packed_nf4("w.weight", w);
    damage(t);
    save_safetensors(f / "x.safetensors", t);
    return error_of([&] { nf4_weights(open(f / "x.safetensors"))->get("w.weight"); });
  };
  auto state = [&](const std::string& from, const std::string& to) {
    return with([&](NamedTensors& t) {
      std::string s(reinterpret_cast<const char*>(t[5].second.data), t[5].second.nbytes());
      REQUIRE(s.find(from) != s.npos);
      s.replace(s.find(from), from.size(), to);
      t[5].second = empty({static_cast<int64_t>(s.size())}, DType::U8);
      std::copy(s.begin(), s.end(), reinterpret_cast<char*>(t[5].second.data));
    });
  };
  auto contains = [](const std::string& e, const char* what) {
    CAPTURE(e);
    CHECK(e.find(what) != std::string::npos);
  };
  contains(with([](NamedTensors&) {}), "no error");
  for (size_t i = 1; i < 5; ++i)
    contains(with([&](NamedTensors& t) { t.erase(t.begin() + static_cast<long>(i)); }),
             "is missing");
  contains(with([&](NamedTensors& t) { t[1].second = zeros({3}, DType::U8); }),
           "is U8 [3], 4 U8 expected");
  contains(with([&](NamedTensors& t) { t[0].second = zeros({5}, DType::U8); }), "128 U8 expected");
  contains(with([&](NamedTensors& t) { t[5].first = "w.weight.quant_state.bitsandbytes__fp4"; }),
           "known: quant_state.bitsandbytes__nf4");
  contains(state("nf4", "fp4"), "quant_type is \"fp4\", known: nf4");
  contains(state("64,", "63,"), "blocksize is 63");
  contains(state("64,", "0,"), "blocksize is 0");
  contains(state("float32", "float64"), "dtype is \"float64\"");
  contains(state("[4, 64]", "[-4, 64]"), "integers >= 0");
  contains(state("[4, 64]", "[1000000000000, 1000000000000]"), "is not there");
  contains(state("[4, 64]", "[60247241209, 153092023]"), "is not there");  // n + 63: no int64
  contains(state("[4, 64]", "[4, 65]"), "130 U8 expected");
  contains(state("{", "["), "invalid JSON");
}
