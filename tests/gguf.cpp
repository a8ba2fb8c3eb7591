// GGUF: every quantised type gives what gguf's quants.py gives (tests/goldens/make_gguf.py), the
// tokenizers in the files equal those of their hub folders, whole models equal their hub folders,
// and a table of corruptions gives the error of each.
#include "io/gguf.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "engine/quant.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "io/tokenizer.h"
#include "model/checkpoint.h"
#include "model/gguf.h"
#include "model/model.h"
#include "model/nf4_folder.h"
#include "model/trace.h"
#include "tests/command.h"
#include "tests/corruption.h"
#include "tests/gguf_writer.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {
const std::string kGoldens = "tests/goldens/gguf/";
}

TEST_CASE("gguf: blocks of every type are unpacked exactly") {
  GgufFile file(kGoldens + "blocks.gguf");
  Checkpoint want = Checkpoint::open(kGoldens + "blocks.safetensors");
  CHECK(file.names().size() == want.names().size());
  for (const std::string& name : want.names()) {
    CAPTURE(name);
    const BlockFormat* format = block_format(file.info(name).dtype);
    Tensor w = want.get(name);
    CHECK(file.info(name).shape == w.shape);
    if (format == nullptr) {
      CHECK(same_bits(cast(file.get(name), w.dtype), w));
      continue;
    }
    Tensor exact = empty(w.shape), rounded = empty(w.shape, DType::BF16), turned = empty(w.shape);
    unpack_blocks(exact, file.bytes(name), format->type);
    unpack_blocks(rounded, file.bytes(name), format->type);
    const int32_t rows[] = {2, 0, 1};
    unpack_blocks(turned, file.bytes(name), format->type, rows);
    CHECK(same_bits(exact, w));
    CHECK(same_bits(rounded, cast(w, DType::BF16)));
    for (int r = 0; r < 3; ++r)
      CHECK(same_bits(turned.slice(r, r + 1), w.slice(rows[r], rows[r] + 1)));
  }
}

TEST_CASE("gguf: the tokenizer in the file is that of the hub folder") {
  for (auto [file, folder] : {std::pair{"qwen", "qwen"}, {"llama", "spm"}}) {
    CAPTURE(file);
    Tokenizer t = Tokenizer::load(kGoldens + "vocab_" + file + ".gguf"),
              hub = Tokenizer::load(fmt::format("tests/goldens/tokenizer/{}", folder));
    Json cases = read_json_file(fmt::format("tests/goldens/tokenizer/{}/cases.json", folder));
    for (const Json& c : cases) {
      auto ids = c["ids"].get<std::vector<int32_t>>();
      std::string text = hub.decode(ids, true);
      CAPTURE(text);
      CHECK(t.encode(text) == hub.encode(text));
      CHECK(t.decode(ids) == hub.decode(ids));
      CHECK(t.decode(ids, true) == c["skipped"].get<std::string>());
    }
  }
}

TEST_CASE("gguf: whole models equal their hub folders") {
  for (auto [file, folder] : {std::pair{"llama", "llama/biased"},
                              {"qwen2", "qwen2/plain"},
                              {"qwen2_moe", "qwen2_moe/plain"},
                              {"qwen3", "qwen3/plain"},
                              {"qwen3_moe", "qwen3_moe/plain"},
                              {"olmoe", "olmoe/clipped"},
                              {"mixtral", "mixtral/plain"},
                              {"deepseek_v2", "deepseek_v2/lite"}}) {
    CAPTURE(file);
    std::string hub = std::string("tests/goldens/") + folder;
    auto a = load_model(hub), b = load_model(kGoldens + file + ".gguf");
    CHECK(a->config.model_type == b->config.model_type);
    CHECK(a->params.all().size() == b->params.all().size());
    for (const Param& p : a->params.all()) {
      CAPTURE(p.name);
      CHECK(same_bits(cast(p.value, DType::F32), cast(b->params.at(p.name).value, DType::F32)));
    }
    Ctx ctx = cpu_context(Compute::kF32);
    Checkpoint golden = Checkpoint::open(hub + "/golden.safetensors");
    auto logits = [&](Model& model) {
      for (const auto& [name, t] : trace_model(ctx, model, golden, {}))
        if (name == "logits") return t;
      return Tensor{};
    };
    CHECK(same_bits(logits(*a), logits(*b)));
  }
}

// Q8_0 of every linear: the largest code is 127.
Tensor as_q8_0(const Tensor& weight, DType as) {
  const Tensor w = cast(weight, DType::F32);
  const BlockFormat& f = *block_format("Q8_0");
  Tensor bytes = empty({w.numel() / f.elements, f.bytes}, DType::U8);
  for (int64_t b = 0; b < bytes.rows(); ++b) {
    const float* x = w.f32() + b * f.elements;
    float top = 0;
    for (int64_t i = 0; i < f.elements; ++i) top = std::max(top, std::abs(x[i]));
    const auto d = static_cast<_Float16>(top / 127);
    const auto half = std::bit_cast<uint16_t>(d);
    auto* to = reinterpret_cast<int8_t*>(bytes.data + b * f.bytes);
    std::copy_n(reinterpret_cast<const int8_t*>(&half), 2, to);
    for (int64_t i = 0; i < f.elements; ++i)
      to[2 + i] = top == 0 ? int8_t{0}
                           : static_cast<int8_t>(std::clamp(
                                 std::round(x[i] / static_cast<float>(d)), -127.0f, 127.0f));
  }
  return blocks_tensor(bytes.storage, bytes.data, f, w.shape, as);
}

TEST_CASE("gguf: a model in blocks is the model of the unpacked weights") {
  Folder f;
  f.file("c.json", R"({"model_type": "llama", "vocab_size": 70, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 64})");
  REQUIRE(run(f, "init " + (f / "c.json") + " --out " + (f / "m")).code == 0);
  const std::string hub = f / "m";
  Tensor ids = empty({2, 40}, DType::I64);
  for (int64_t i = 0; i < ids.numel(); ++i) ids.as<int64_t>()[i] = i * i % 70;
  save_safetensors(f / "ids.safetensors", {{"input_ids", ids}, {"labels", ids}});
  Checkpoint golden = Checkpoint::open(f / "ids.safetensors");
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    auto packed = load_model(hub), plain = load_model(hub);
    int n = 0;
    for (Param& p : packed->params.all()) {
      if (p.value.shape.size() != 2 || p.value.cols() % 32 != 0) continue;
      p.value = as_q8_0(p.value, compute == Compute::kF32 ? DType::F32 : DType::BF16);
      plain->params.at(p.name).value = unpacked(p.value);
      ++n;
    }
    CHECK(n == 16);
    Ctx ctx = cpu_context(compute);
    auto traced = [&](Model& model) {
      TraceRequest all;
      all.grads = true;
      model.params.freeze_all();
      model.params.train("model.layers.0.*");
      return trace_model(ctx, model, golden, all);
    };
    const NamedTensors a = traced(*packed), b = traced(*plain);
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      CAPTURE(a[i].first);
      CHECK(same_bits(a[i].second, b[i].second));
    }
    std::filesystem::remove_all(f / "out");
    write_model(f / "out", *packed, hub);  // what is written is unpacked
    auto again = load_model(f / "out");
    for (const Param& p : plain->params.all())
      CHECK(same_bits(cast(again->params.at(p.name).value, DType::F32), cast(p.value, DType::F32)));
    for (auto [model, name] : {std::pair{packed.get(), "q"}, {plain.get(), "p"}}) {
      std::filesystem::remove_all(f / name);
      write_nf4_folder(f / name, *model, hub);
    }
    CHECK(read_file(f / "q" + "/model.safetensors") == read_file(f / "p" + "/model.safetensors"));
  }
}

TEST_CASE("gguf: a list of equal head counts, one per layer, is that count") {
  Folder f;
  std::string bytes = read_file(kGoldens + "llama.gguf");
  const std::string kHeads = "llama.attention.head_count", kKv = kHeads + "_kv";
  auto replace = [](std::string s, const std::string& key, uint32_t n, uint32_t a, uint32_t b) {
    std::string old = gguf_key(key, n);
    REQUIRE(s.find(old) != s.npos);
    return s.replace(s.find(old), old.size(),
                     gguf_key(key, 9, le<uint32_t>(4) + le<uint64_t>(2) + le(a) + le(b)));
  };
  // Both keys grow by 16 bytes: the tensors stay aligned.
  f.file("x.gguf", replace(replace(bytes, kHeads, 6, 6, 6), kKv, 2, 2, 2));
  auto a = load_model(kGoldens + "llama.gguf"), b = load_model(f / "x.gguf");
  for (const Param& p : a->params.all()) {
    CAPTURE(p.name);
    CHECK(same_bits(p.value, b->params.at(p.name).value));
  }
  f.file("x.gguf", replace(replace(bytes, kHeads, 6, 6, 6), kKv, 2, 2, 1));
  CHECK(error_of([&] {
          open_gguf(f / "x.gguf", Compute::kF32);
        }).find("head_count_kv differs between layers") != std::string::npos);
}

TEST_CASE("gguf: RoPE's scaling, as llama.cpp takes it") {
  Folder f;
  auto real = [](const std::string& key, float v) {
    return gguf_key("llama.rope." + key, 6, le(v));
  };
  auto scaling = [&](const std::vector<std::string>& more) {
    std::vector<std::string> keys{gguf_key("general.architecture", "llama"),
                                  gguf_key("llama.embedding_length", uint32_t{4}),
                                  gguf_key("llama.block_count", uint32_t{1}),
                                  gguf_key("llama.attention.head_count", uint32_t{1}),
                                  gguf_key("llama.context_length", uint32_t{8}),
                                  gguf_key("llama.attention.layer_norm_rms_epsilon", 6, le(1e-5f))};
    keys.insert(keys.end(), more.begin(), more.end());
    f.file("x.gguf", gguf_of(keys, {gguf_tensor("token_embd.weight", {4, 2}, 0, 0)}, 32));
    Json j = gguf_config(f / "x.gguf");
    return j.contains("rope_scaling") ? j["rope_scaling"] : Json();
  };
  auto type = [](const std::string& v) { return gguf_key("llama.rope.scaling.type", v); };
  CHECK(scaling({}).is_null());
  // A factor without a type is linear scaling.
  for (const char* key : {"scaling.factor", "scale_linear"}) {
    CAPTURE(key);
    CHECK(scaling({real(key, 4)}) == Json{{"rope_type", "linear"}, {"factor", 4.0}});
    CHECK(scaling({real(key, 4), type("none")}).is_null());
  }
  CHECK(scaling({real("scaling.factor", 1)}).is_null());
  CHECK(scaling({real("scaling.attn_factor", 1), real("scaling.yarn_ext_factor", 1)}).is_null());
  for (const char* key : {"scaling.attn_factor", "scaling.yarn_attn_factor", "scaling.new_one"}) {
    std::string e = error_of([&] {
      scaling({type("linear"), real("scaling.factor", 4), real(key, 2)});
    });
    CAPTURE(e);
    CHECK(e.find(fmt::format("llama.rope.{} is 2", key)) != e.npos);
  }
}

TEST_CASE("gguf: corruptions") {
  Folder f;
  std::string good_key = gguf_key("general.alignment", uint32_t{32}),
              good_tensor = gguf_tensor("a", {4, 2}, 0, 0);
  std::string good = gguf_of({good_key}, {good_tensor}, 32);
  auto key = [&](const std::string& k) { return gguf_of({k}, {good_tensor}, 32); };
  auto tensor = [&](std::vector<uint64_t> ne, uint32_t type = 0, uint64_t offset = 0) {
    return gguf_of({}, {gguf_tensor("a", ne, type, offset)}, 32);
  };
  auto counts = [](uint64_t tensors, uint64_t keys) {
    return "GGUF" + le<uint32_t>(3) + le(tensors) + le(keys) + std::string(64, '\0');
  };
  auto array = [](uint32_t type, uint64_t n, const std::string& bytes) {
    return gguf_key("k", 9, le(type) + le(n) + bytes);
  };
  std::string three(4096, '\0');
  check_corruptions(
      {
          {good, "no error"},
          {"", "not a GGUF file"},
          {"GGUX" + good.substr(4), "not a GGUF file"},
          {"GGUF", "cut off: version"},
          {gguf_of({}, {}, 0, 1), "GGUF version 1"},
          {gguf_of({}, {}, 0, 0x03000000), "big-endian"},
          {gguf_of({}, {}, 0, 4), "GGUF version 4"},
          {counts(~uint64_t{0}, 0), "the number of tensors is"},
          {counts(64, 0), "the number of tensors is 64"},
          {counts(0, ~uint64_t{0}), "the number of keys is"},
          {"GGUF" + le<uint32_t>(3) + le<uint64_t>(0) + le<uint64_t>(5000) +
               std::string(1 << 17, 0),
           "at most 4096 allowed"},
          {key(gguf_key("", uint32_t{1})), "has 0 bytes"},
          {key(le<uint64_t>(1 << 20)), "cut off: a key"},
          {key(le(~uint64_t{0})), "cut off: a key"},
          {gguf_of({good_key, good_key}, {}, 0), "is there twice"},
          {key(gguf_key("k", 13, "")), "value type 13"},
          {key(gguf_key("k", 8, le(~uint64_t{0}))), "cut off: a metadata text"},
          {key(array(9, 1, "")), "an array of type 9"},
          {key(array(13, 1, "")), "an array of type 13"},
          {key(array(12, uint64_t{1} << 61, "")), "an array's length is"},
          {key(array(0, 1 << 20, "")), "an array's length is"},
          {key(gguf_key("general.alignment", uint32_t{24})), "general.alignment is 24"},
          {key(gguf_key("general.alignment", uint32_t{0})), "general.alignment is 0"},
          {key(gguf_key("general.alignment", uint32_t{1 << 20})), "general.alignment is 1048576"},
          {key(gguf_key("general.alignment", "x")), "\"general.alignment\" must be an integer"},
          {gguf_of({}, {good_tensor, good_tensor}, 64), "is at 0, expected at 32"},
          {gguf_of({}, {good_tensor, gguf_tensor("a", {4, 2}, 0, 32)}, 64), "is there twice"},
          {gguf_of({}, {gguf_tensor("", {4}, 0, 0)}, 32), "has 0 bytes"},
          {gguf_of({}, {gguf_tensor(std::string(65, 'a'), {4}, 0, 0)}, 32), "has 65 bytes"},
          {tensor({}), "has 0 dimensions"},
          {tensor({1, 1, 1, 1, 1}), "has 5 dimensions"},
          {tensor({0}), "dimension 0 is 0"},
          {tensor({uint64_t{1} << 63}), "dimension 0 is"},
          {tensor({uint64_t{1} << 62, uint64_t{1} << 62}), "does not fit the file"},
          {tensor({uint64_t{1} << 62}), "does not fit the file"},
          {tensor({1 << 20}), "does not fit the file"},
          {tensor({4, 2}, 4), "has ggml type 4, known: F32, F16, Q4_0"},
          {tensor({33}, 2), "has rows of 33, Q4_0 comes in blocks of 32"},
          {tensor({128}, 12), "comes in blocks of 256"},
          {tensor({4, 2}, 0, 32), "is at 32, expected at 0"},
          {gguf_of({}, {good_tensor}, 31), "cut off: tensor a ends"},
          {good + three, "no error"},
      },
      [&](const std::string& bytes) {
        write_file_atomic(f / "x.gguf", bytes);
        GgufFile file(f / "x.gguf");
        for (const std::string& name : file.names()) file.get(name);
      });
}

TEST_CASE("gguf: metadata and tensors that no model can have") {
  Folder f;
  auto arch = [](const std::string& name) { return gguf_key("general.architecture", name); };
  auto config = [&](const std::vector<std::string>& keys, const std::vector<std::string>& tensors) {
    f.file("x.gguf", gguf_of(keys, tensors, 4096));
    return error_of([&] { gguf_config(f / "x.gguf"); });
  };
  auto contains = [](const std::string& e, const char* what) {
    CAPTURE(e);
    CHECK(e.find(what) != std::string::npos);
  };
  contains(config({}, {}), "key \"general.architecture\" is missing");
  contains(config({arch("gemma")}, {}), "general.architecture is \"gemma\", known: llama, qwen2");
  contains(config({arch("llama")}, {}), "\"llama.embedding_length\" is missing");
  std::string embed = gguf_tensor("token_embd.weight", {4, 2}, 0, 0);
  contains(config({arch("llama")}, {embed}), "\"llama.embedding_length\" is missing");
  contains(config({arch("llama"), gguf_key("llama.embedding_length", "x")}, {embed}),
           "\"llama.embedding_length\" must be an integer");
  auto weights = [&](const std::vector<std::string>& keys,
                     const std::vector<std::string>& tensors) {
    f.file("x.gguf", gguf_of(keys, tensors, 4096));
    return error_of([&] { open_gguf(f / "x.gguf", Compute::kF32); });
  };
  contains(weights({arch("llama")}, {gguf_tensor("x", {4}, 0, 0)}), "tensor x is not known");
  contains(weights({arch("llama")}, {gguf_tensor("blk.0.x.weight", {4}, 0, 0)}), "is not known");
  contains(weights({arch("llama"), gguf_key("llama.attention.head_count", uint32_t{3})},
                   {gguf_tensor("blk.0.attn_q.weight", {4, 4}, 0, 0)}),
           "has no 3 heads of even width");
  contains(weights({arch("llama"), gguf_key("split.count", uint32_t{2})}, {}),
           "the first of 2 files must be named");
  contains(weights({arch("deepseek2")}, {gguf_tensor("blk.0.attn_k_b.weight", {4, 4, 1}, 0, 0)}),
           "without blk.0.attn_v_b.weight");
}

TEST_CASE("gguf: llama3's rope factors become its parameters") {
  Folder f;
  auto config = [&](float last) {
    std::string bytes = gguf_of(
        {gguf_key("general.architecture", "llama"), gguf_key("llama.embedding_length", uint32_t{8}),
         gguf_key("llama.block_count", uint32_t{1}), gguf_key("llama.context_length", uint32_t{64}),
         gguf_key("llama.attention.head_count", uint32_t{1}),
         gguf_key("llama.feed_forward_length", uint32_t{8}),
         gguf_key("llama.attention.layer_norm_rms_epsilon", 6, le(1e-5f)),
         gguf_key("llama.rope.freq_base", 6, le(500000.0f))},
        {gguf_tensor("token_embd.weight", {8, 2}, 0, 0),
         gguf_tensor("rope_freqs.weight", {4}, 0, 64)},
        64);
    // Waves of 6, 167, 4443 and 118143 tokens: kept, kept, between, divided by 8.
    f.file("x.gguf", bytes + le(1.0f) + le(1.0f) + le(2.69430f) + le(last));
    return gguf_config(f / "x.gguf");
  };
  Json j = config(8.0f);
  CHECK(j["rope_scaling"]["rope_type"] == "llama3");
  CHECK(j["rope_scaling"]["factor"] == 8.0);
  CHECK(j["rms_norm_eps"] == 1e-5);
  std::string e = error_of([&] { config(7.0f); });
  CAPTURE(e);
  CHECK(e.find("rope_freqs.weight[2] is") != std::string::npos);
}
