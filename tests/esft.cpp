// The authors' published artefacts (deepseek-ai/ESFT results/): routing logs -> scores -> configs,
// exactly.
#include "model/esft.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "io/file.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("esft: published routing logs give the published scores and configs") {
  for (std::string task : {"intent", "law"}) {
    CAPTURE(task);
    std::string temp = "build/test-esft", golden = "tests/goldens/esft/" + task;
    std::filesystem::create_directories(temp);
    REQUIRE(std::system(("tar -xJf " + golden + ".tar.xz -C " + temp).c_str()) == 0);
    Scores own = scores_from_raw(temp + "/" + task, 6, 64),
           published = read_scores(golden + ".scores.json");
    REQUIRE(own.token.size() == 26);
    for (auto [a, b] : {std::pair{&own.token, &published.token}, {&own.gate, &published.gate}})
      for (const auto& [layer, v] : *b)
        for (size_t e = 0; e < v.size(); ++e)
          CHECK(std::abs((*a).at(layer)[e] - v[e]) <= 5.0001e-5);
    std::string file = temp + "/scores.json";
    write_scores(file, own);
    ExpertConfig selected = select_experts(read_scores(file).token, 0.2),
                 config = read_expert_config(golden + ".config.json");
    CHECK(selected.experts == config.experts);
    CHECK(read_file(file) ==
          read_file(golden + ".scores.json"));  // every byte, from logs or read and written again
    write_scores(file, published);
    CHECK(read_file(file) == read_file(golden + ".scores.json"));
    CHECK(to_json(selected) == read_file(golden + ".config.json"));
    CHECK(select_experts(published.token, 0.2).experts == config.experts);
  }
}

TEST_CASE("esft: pooled, per sample, normalised") {
  // Sample 1: one token on experts 0, 1; sample 2: three tokens, one of them on 1, 2, two on 0, 2.
  const int32_t ids[] = {0, 1, 1, 2, 0, 2, 0, 2};
  const float w[] = {0.5f, 0.25f, 0.25f, 0.125f, 0.5f, 0.5f, 0.f, 0.f};
  auto run = [&](bool per_sample, bool normalize) {
    ScoreAccumulator acc(4, 2, per_sample);
    acc.add(7, ids, w, 1, normalize);
    acc.add(7, ids + 2, w + 2, 3, normalize);
    return acc.scores();
  };
  using V = std::vector<double>;
  auto near = [](const V& a, const V& b) {
    for (size_t i = 0; i < 4; ++i) CHECK(std::abs(a[i] - b[i]) < 1e-15);
  };
  near(run(false, false).token.at(7), {3 / 8.0, 2 / 8.0, 3 / 8.0, 0});
  near(run(false, false).gate.at(7), {1 / 4.0, 0.5 / 4, 0.625 / 4, 0});
  near(run(true, false).token.at(7),
       {(1 / 2.0 + 2 / 6.0) / 2, (1 / 2.0 + 1 / 6.0) / 2, (3 / 6.0) / 2, 0});
  near(run(true, false).gate.at(7),
       {(0.5 + 0.5 / 3) / 2, (0.25 + 0.25 / 3) / 2, (0.625 / 3) / 2, 0});
  near(run(false, true).gate.at(7), {(2 / 3.0 + 0.5) / 4, (1 / 3.0 + 2 / 3.0) / 4,
                                     (1 / 3.0 + 0.5) / 4, 0});  // a token without weight adds none
  const int32_t bad[] = {0, 4};
  ScoreAccumulator acc(4, 2, false);
  CHECK_THROWS_AS(acc.add(7, bad, w, 1), Error);
}

TEST_CASE("esft: a routing log is written as it was read") {
  const int32_t ids[] = {8, 26, 0, 63};
  const float w[] = {0.0414f, 0.047f, 0.f, 1.f};
  CHECK(raw_line(ids, w, 4) == "8\t26\t0\t63\t\t0.0414\t0.047\t0.0\t1.0\n");
}

TEST_CASE("esft: what a routing log may not say") {
  std::string dir = "build/test-raw";
  auto error = [&](const std::string& text, const std::string& second = "0\t1\t\t0.5\t0.25\n") {
    std::filesystem::remove_all(dir);
    std::filesystem::create_directories(dir);
    write_file_atomic(dir + "/expert_weights_1.txt", second);
    write_file_atomic(dir + "/expert_weights_2.txt", text);
    try {
      scores_from_raw(dir, 2, 4);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error("0\t1\t\t0.5\t0.25\n") == "");
  struct {
    const char *text, *expected;
  } table[] = {
      {"", "expert_weights_2.txt: is empty"},
      {"\n", "expert_weights_2.txt:1: no two tabs"},
      {"0\t1\t0.5\t0.25\n", ":1: no two tabs"},
      {"\t\t\n", ":1: id 1 is '', not a number"},
      {"0\t1\t\t0.5\t0.25", ":1: the last line has no end"},
      {"0\t1\t\t0.5\t0.25\n0\t1\t\t0.5\n", ":2: 2 ids and 1 weights for top-2"},
      {"0\t1\t2\t\t0.5\t0.5\t0.5\n", ":1: 3 ids and 3 weights for top-2"},
      {"0\t4\t\t0.5\t0.25\n", ":1: id 2 is 4, not in 0..3"},
      {"0\t-1\t\t0.5\t0.25\n", ":1: id 2 is -1, not in 0..3"},
      {"0\t01\t\t0.5\t0.25\n", ":1: id 2 is '01', not a number"},
      {"0\t1.0\t\t0.5\t0.25\n", ":1: id 2 is '1.0', not a number"},
      {"0\t99999999999\t\t0.5\t0.25\n", ":1: id 2 is '99999999999', not a number"},
      {"1\t1\t\t0.5\t0.25\n", ":1: token 1 has expert 1 twice"},
      {"0\t1\t\t0.5\t0.25\t\n", ":1: weight 3 is '', not a number"},
      {"0\t1\t\t0.5\tx\n", ":1: weight 2 is 'x', not a number"},
      {"0\t1\t\t0.5\tnan\n", ":1: weight 2 is nan, not a finite number"},
      {"0\t1\t\t0.5\tinf\n", ":1: weight 2 is inf, not a finite number"},
      {"0\t1\t\t0.5\t-0.25\n", ":1: weight 2 is -0.25, not a finite number"},
      {"0\t1\t\t0.5\t0.25\n0\t1\t\t0.5\t0.25\n",
       "2 samples, build/test-raw/expert_weights_1.txt has 1"},
      {"0\t1\t2\t3\t\t0.5\t0.5\t0.5\t0.5\n",
       ":1: 2 tokens, build/test-raw/expert_weights_1.txt has 1 there"},
  };
  for (auto& t : table)
    CHECK_MESSAGE(error(t.text).find(t.expected) != std::string::npos,
                  t.expected << " / " << error(t.text));
  for (const char* name : {"expert_weights_x.txt", "expert_weights_01.txt", "expert_weights_.txt",
                           "expert_weights_-1.txt", "expert_weights_1.tx"}) {
    error("0\t1\t\t0.5\t0.25\n");
    write_file_atomic(dir + "/" + name, "0\t1\t\t0.5\t0.25\n");
    CHECK_THROWS_WITH_AS(scores_from_raw(dir, 2, 4),
                         (dir + ": " + name + " is not expert_weights_<layer>.txt").c_str(), Error);
  }
}

TEST_CASE("esft: what a file of scores may not say") {
  auto error = [](const std::string& row) {
    write_file_atomic("build/test-scores.json",
                      "{\"token_scores\":{" + row + "},\"gate_scores\":{" + row + "}}");
    try {
      read_scores("build/test-scores.json");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error(R"("1":{"0":0.5,"1":0.5})") == "");
  CHECK(error("").find("token_scores has no layers") != std::string::npos);
  CHECK(error(R"("x":{"0":0.5})").find("token_scores.x: not a layer") != std::string::npos);
  CHECK(error(R"("1":{})").find("token_scores.1: not a layer") != std::string::npos);
  CHECK(error(R"("1":{"0":0.5,"2":0.5})").find("token_scores.1.2: not an expert of 0..1") !=
        std::string::npos);
  CHECK(error(R"("1":{"0":0.5,"00":0.5})").find("token_scores.1.00: not an expert") !=
        std::string::npos);
  CHECK(error(R"("1":{"0":"0.5"})").find("is not a score") != std::string::npos);
  CHECK(error(R"("1":{"0":-0.5})").find("-0.5 is not a score") != std::string::npos);
}

TEST_CASE("esft: at least one expert, ties to the lower id, all for p = 1") {
  LayerScores s{{3, {0.25, 0.25, 0.25, 0.25}}};
  CHECK(select_experts(s, 0.0).experts.at(3) == std::vector<int>{0});
  CHECK(select_experts(s, 0.5).experts.at(3) == std::vector<int>{0, 1});
  CHECK(select_experts(s, 1.0).experts.at(3).size() == 4);
  CHECK(select_experts(s, 7.0).experts.at(3).size() == 4);
  CHECK_THROWS_AS(select_experts(s, -0.1), Error);
  CHECK_THROWS_AS(select_experts(s, NAN), Error);
  CHECK(select_experts({{3, {0, 0, 0}}}, 0.2).experts.at(3).size() == 3);  // never reaches p
}

TEST_CASE("esft: random experts, as many per layer, the same for the same seed") {
  LayerScores s{{3, std::vector<double>(64, 1 / 64.0)}, {4, std::vector<double>(64, 1 / 64.0)}};
  ExpertConfig c{{{3, {1, 2, 3, 4, 5}}, {4, {9}}}, true, false}, a = randomize(c, s, 7);
  CHECK(a.experts == randomize(c, s, 7).experts);
  CHECK(a.experts != randomize(c, s, 8).experts);
  CHECK(a.shared_experts);
  for (const auto& [layer, ids] : a.experts) {
    CHECK(ids.size() == c.experts.at(layer).size());
    CHECK(std::set<int>(ids.begin(), ids.end()).size() == ids.size());
    for (int e : ids) CHECK((e >= 0 && e < 64));
  }
}

TEST_CASE("esft: names of what trains") {
  ExpertConfig two{{{3, {17, 2}}, {11, {}}}, false, false}, shared{{}, true, false},
      rest{{}, false, true};
  CHECK(trains(two, "model.layers.3.mlp.experts.17.up_proj.weight"));
  CHECK(trains(two, "model.layers.3.mlp.experts.2.down_proj.weight"));
  for (const char* name : {"model.layers.3.mlp.experts.1.up_proj.weight",
                           "model.layers.11.mlp.experts.2.up_proj.weight",
                           "model.layers.13.mlp.experts.17.up_proj.weight",
                           "model.layers.3.mlp.experts.17.up_proj.lora_A.weight",
                           "model.layers.3.mlp.shared_experts.up_proj.weight", "lm_head.weight"})
    CHECK_MESSAGE(!trains(two, name), name);
  CHECK(trains(shared, "model.layers.1.mlp.shared_experts.up_proj.weight"));
  CHECK(!trains(shared, "model.norm.weight"));
  // As the authors' to_esft: everything that is no routed and no shared expert.
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
        "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.gate.weight",
        "model.layers.1.self_attn.kv_a_layernorm.weight", "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight"})
    CHECK_MESSAGE(trains(rest, name), name);
  for (const char* name : {"model.layers.1.mlp.experts.0.gate_proj.weight",
                           "model.layers.1.mlp.experts.3.down_proj.weight",
                           "model.layers.1.mlp.shared_experts.up_proj.weight"})
    CHECK_MESSAGE(!trains(rest, name), name);
}

TEST_CASE("esft: what an expert config may not say") {
  auto error = [](const std::string& text) {
    write_file_atomic("build/test-config.json", text);
    try {
      check_expert_config(read_expert_config("build/test-config.json"), {1, 2}, 8, "test", true);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error(R"({"experts":{"1":[0,7]}})").empty());
  CHECK(error(R"({"experts":{"1":[8]}})").find("expert 8 of 8") != std::string::npos);
  CHECK(error(R"({"experts":{"0":[1]}})").find("experts names layers 0, which are no MoE layers") !=
        std::string::npos);
  CHECK(error(R"({"experts":{"1":[1,1]}})").find("twice") != std::string::npos);
  CHECK(error(R"({"experts":{"1":[1]},"x":1})").find("unknown key x") != std::string::npos);
  CHECK(error(R"({"experts":{"x":[1]}})").find("not a layer number") != std::string::npos);
  CHECK(error(R"({"experts":{"1":[1.5]}})").find("not an expert id") != std::string::npos);
  CHECK(!error("{").empty());
}

TEST_CASE("esft: a config whose layers do not fit says which, and whether counting from 1 helps") {
  Folder f;
  std::vector<int> moe{1, 2, 3, 5};
  auto check_it = [&](const std::string& text, bool one_indexed,
                      bool has_option = true) -> std::string {
    std::string file = f.file("c.json", "{\"experts\": " + text + "}");
    try {
      check_expert_config(read_expert_config(file, one_indexed), moe, 8, file, has_option);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(check_it(R"({"1": [0], "5": [7]})", false) == "");
  std::string e = check_it(R"({"2": [0], "4": [1], "6": [7]})", false);
  CHECK(e.find("experts names layers 4, 6, which are no MoE layers") != e.npos);
  CHECK(e.find("they are 1..3, 5, counted from 0") != e.npos);
  CHECK(e.find("--one-indexed") != e.npos);
  e = check_it(R"({"2": [0], "4": [1], "6": [7]})", false, false);  // of an adapter
  CHECK(e.find("counted from 1 all its layers fit: subtract 1") != e.npos);
  CHECK(e.find("--one-indexed") == e.npos);
  CHECK(check_it(R"({"2": [0], "4": [1], "6": [7]})", true) == "");
  e = check_it(R"({"0": [0], "6": [7]})", false);
  CHECK(e.find("layers 0, 6") != e.npos);
  CHECK(e.find("--one-indexed") == e.npos);
  CHECK(check_it(R"({"0": [1]})", true).find("layers count from 1") != e.npos);
  CHECK(check_it(R"({"1": [8]})", false).find("expert 8 of 8") != e.npos);
}
