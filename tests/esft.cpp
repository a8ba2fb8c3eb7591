// The authors' published artefacts (deepseek-ai/ESFT results/): routing logs -> scores -> configs, exactly.
#include "model/esft.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>

#include "io/file.h"

using namespace sutor;

TEST_CASE("esft: published routing logs give the published scores and configs") {
  for (std::string task : {"intent", "law"}) {
    CAPTURE(task);
    std::string temp = "build/test-esft", golden = "tests/goldens/esft/" + task;
    std::filesystem::create_directories(temp);
    REQUIRE(std::system(("tar -xJf " + golden + ".tar.xz -C " + temp).c_str()) == 0);
    Scores own = scores_from_raw(temp + "/" + task, 6, 64), published = read_scores(golden + ".scores.json");
    REQUIRE(own.token.size() == 26);
    for (auto [a, b] : {std::pair{&own.token, &published.token}, {&own.gate, &published.gate}})
      for (const auto& [layer, v] : *b)
        for (size_t e = 0; e < v.size(); ++e) CHECK(std::abs((*a).at(layer)[e] - v[e]) <= 5.0001e-5);
    std::string file = temp + "/scores.json";
    write_scores(file, own);
    ExpertConfig selected = select_experts(read_scores(file).token, 0.2), config = read_expert_config(golden + ".config.json");
    CHECK(selected.experts == config.experts);
    CHECK(select_experts(published.token, 0.2).experts == config.experts);
  }
}

TEST_CASE("esft: at least one expert, ties to the lower id, all for p = 1") {
  LayerScores s{{3, {0.25, 0.25, 0.25, 0.25}}};
  CHECK(select_experts(s, 0.0).experts.at(3) == std::vector<int>{0});
  CHECK(select_experts(s, 0.5).experts.at(3) == std::vector<int>{0, 1});
  CHECK(select_experts(s, 1.0).experts.at(3).size() == 4);
  CHECK(randomize(select_experts(s, 0.5), s, 7).experts.at(3).size() == 2);
}

TEST_CASE("esft: what an expert config may not say") {
  auto error = [](const std::string& text) {
    write_file_atomic("build/test-config.json", text);
    try {
      check_expert_config(read_expert_config("build/test-config.json"), {1, 2}, 8, "test");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error(R"({"experts":{"1":[0,7]}})").empty());
  CHECK(error(R"({"experts":{"1":[8]}})").find("expert 8 of 8") != std::string::npos);
  CHECK(error(R"({"experts":{"0":[1]}})").find("layer 0 is no MoE layer") != std::string::npos);
  CHECK(error(R"({"experts":{"1":[1,1]}})").find("twice") != std::string::npos);
  CHECK(error(R"({"experts":{"1":[1]},"x":1})").find("unknown key x") != std::string::npos);
  CHECK(error(R"({"experts":{"x":[1]}})").find("not a layer number") != std::string::npos);
  CHECK(error(R"({"experts":{"1":[1.5]}})").find("not an expert id") != std::string::npos);
  CHECK(!error("{").empty());
}
