// Sequences decoded together: up to four get the bits they get alone, more the same tokens;
// sampling, ends and the order of answers do not depend on how many go together.
#include "model/family.h"
#include "model/generate.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

std::vector<Request> requests(int64_t vocab) {
  std::vector<Request> all;
  for (int32_t i = 0; i < 7; ++i) {
    Request r{
        {}, 5 + i % 3, {.temperature = i % 2 == 0 ? 0.0 : 0.8, .seed = uint64_t(i), .logprobs = 1}};
    for (int32_t t = 0; t < 2 + 3 * i; ++t)
      r.prompt.push_back(static_cast<int32_t>((7 * t + 11 * i) % vocab));
    all.push_back(std::move(r));
  }
  return all;
}

}  // namespace

TEST_CASE("generate together: every family's sequences are what they are alone") {
  for (Compute compute : {Compute::kF32, Compute::kBF16})
    for (const std::string& family : family_names())
      for (const auto& e : fs::directory_iterator("tests/goldens/" + family)) {
        if (!fs::exists(e.path() / "model.safetensors")) continue;
        CAPTURE(e.path().string());
        Ctx ctx = cpu_context(compute);
        auto model = load_model(e.path().string());
        const std::vector<Request> all = requests(model->config.vocab);
        std::vector<Generation> alone;
        for (const Request& r : all)
          alone.push_back(generate(ctx, *model, r.prompt, r.max_tokens, {}, r.sample));
        for (int64_t most : {1, 4, 6}) {
          if (most > 4 && compute == Compute::kBF16) continue;  // other sums, other roundings
          CAPTURE(most);
          size_t ended = 0;
          generate_together(ctx, *model, all, most, {}, [&](size_t i, Generation g) {
            ++ended;
            CAPTURE(i);
            CHECK(g.ids == alone[i].ids);
            CHECK(g.decode_tokens == alone[i].decode_tokens);
            REQUIRE(g.logprobs.size() == alone[i].logprobs.size());
            for (size_t t = 0; t < g.logprobs.size(); ++t) {
              if (most <= 4)
                CHECK(g.logprobs[t].chosen == alone[i].logprobs[t].chosen);
              else
                CHECK(g.logprobs[t].chosen ==
                      doctest::Approx(alone[i].logprobs[t].chosen).epsilon(1e-4));
            }
          });
          CHECK(ended == all.size());
        }
      }
}

TEST_CASE("generate together: an end token, a caller that stops, what does not fit") {
  Ctx ctx = cpu_context(Compute::kF32);
  auto model = load_model("tests/goldens/deepseek_v2/lite");
  std::vector<Request> all = requests(model->config.vocab);
  const Generation first = generate(ctx, *model, all[0].prompt, 5, {}, {});
  all[1] = all[0];
  all[2] = all[0];
  all[1].on_token = [n = 0](int32_t) mutable { return ++n < 2; };
  std::map<size_t, Generation> got;
  generate_together(ctx, *model, all, 3, {first.ids[3]},
                    [&](size_t i, Generation g) { got[i] = std::move(g); });
  const auto end = std::find(first.ids.begin(), first.ids.end(), first.ids[3]);
  CHECK(got[0].stopped);
  CHECK(got[0].ids == std::vector<int32_t>(first.ids.begin(), end));
  CHECK(got[1].stopped);
  CHECK(got[1].ids ==
        std::vector<int32_t>(first.ids.begin(), std::min(end, first.ids.begin() + 2)));
  CHECK(got.size() == all.size());
  all[5].prompt = {0, 1 << 20};
  CHECK_THROWS_AS(generate_together(ctx, *model, all, 3, {}, [](size_t, Generation) {}), Error);
}

TEST_CASE("generate --batch: the same answers in the same order") {
  if (binary() == nullptr) return;
  Folder f;
  std::string rows;
  for (const char* p : {"a b", "the cobbler", "2 + 3 =", "x"})
    rows += fmt::format("{{\"prompt\":\"{}\"}}\n", p);
  const std::string line = "generate recipes/embedded --prompts " + f.file("prompts.jsonl", rows) +
                           " --max-tokens 6 --temperature 0.7 --n 2 --quiet --dtype f32";
  auto answers = [&](const std::string& more) {
    Result r = run(f, line + more);
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    std::vector<std::string> out;
    for (size_t at = 0; at < r.out.size();) {
      const size_t end = r.out.find('\n', at);
      Json j = parse_json(r.out.substr(at, end - at), "answer");
      out.push_back(j["prompt"].get<std::string>() + "|" + j["index"].dump() + "|" +
                    j["ids"].dump() + "|" + j["text"].dump() + j["finish_reason"].dump());
      at = end + 1;
    }
    return out;
  };
  const auto alone = answers("");
  CHECK(alone.size() == 8);
  CHECK(answers(" --batch 3") == alone);
  CHECK(answers(" --batch 8 --stop e") == answers(" --stop e"));
  check_one_line(run(f, "generate recipes/embedded --prompt x --batch 2"), 2, {"--batch"});
  check_one_line(run(f, "generate recipes/embedded --prompt x --json --batch 2"), 2, {"--batch"});
}
