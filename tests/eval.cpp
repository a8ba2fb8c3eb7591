// Evaluation: drafts change no token, losses and log-probabilities equal those of whole logits,
// answers are compared as documented, rows that do not fit are errors with their line.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "engine/cpu/isa.h"
#include "engine/parallel.h"
#include "io/file.h"
#include "model/eval.h"
#include "model/generate.h"
#include "model/lora.h"

using namespace sutor;
namespace fs = std::filesystem;

namespace {

const std::string kModel = "tests/goldens/esft_train/model";

std::string temporary_file(const std::string& text) {
  std::string path =
      (fs::temp_directory_path() / fmt::format("sutor-eval-{}.jsonl", getpid())).string();
  write_file_atomic(path, text);
  return path;
}

struct Fixture {
  std::unique_ptr<Model> model = load_model(kModel);
  Tokenizer tok = Tokenizer::load(kModel);
  Ctx ctx = cpu_context(Compute::kF32);
  std::vector<int32_t> greedy(const std::vector<int32_t>& prompt, int64_t n,
                              const std::vector<int32_t>& draft = {}) {
    return generate(ctx, *model, prompt, n, {}, {}, {}, draft).ids;
  }
};

// log p of each token after the first `prompt` ones, from whole logits.
double log_probability(Fixture& f, const std::vector<int32_t>& ids, size_t prompt) {
  Tape tape(f.ctx, false);
  Trace none;
  Tensor l =
      logits_of(f.ctx, *f.model, f.model->hidden(tape, make_batch({ids}), none, nullptr).value);
  double sum = 0;
  for (size_t i = prompt; i < ids.size(); ++i) {
    const float* row = l.row(static_cast<int64_t>(i) - 1);
    double z = 0;
    for (int64_t v = 0; v < l.cols(); ++v) z += std::exp(static_cast<double>(row[v]));
    sum += row[ids[i]] - std::log(z);
  }
  return sum;
}

}  // namespace

TEST_CASE("eval: a draft changes no generated token") {
  Fixture f;
  for (bool lora : {false, true}) {
    if (lora) {
      add_lora(*f.model, {4, 16, {}}, 3);
      for (Param& p : f.model->params.all())  // B starts as zeros: give it something to do
        if (p.name.ends_with("lora_B.weight"))
          for (int64_t i = 0; i < p.value.numel(); ++i)
            p.value.f32()[i] = 0.05f * static_cast<float>((i * 7919) % 13 - 6);
    }
    for (cpu::Isa isa : cpu::available_isas())
      for (Compute compute : {Compute::kF32, Compute::kBF16}) {
        CAPTURE(lora);
        CAPTURE(cpu::name_of(isa));
        cpu::Isa old = cpu::current_isa();
        cpu::override_isa(isa);
        f.ctx = cpu_context(compute);
        for (int64_t length : {1, 3, 7, 40}) {
          std::vector<int32_t> prompt;
          for (int64_t i = 0; i < length; ++i)
            prompt.push_back(static_cast<int32_t>((i * 131 + length * 17) % 1000));
          std::vector<int32_t> plain = f.greedy(prompt, 21), half = plain, wrong(21, 5);
          for (size_t i = 10; i < half.size(); ++i) half[i] = (half[i] + 1) % 1000;
          REQUIRE(plain.size() == 21);
          CHECK(f.greedy(prompt, 21, plain) == plain);
          CHECK(f.greedy(prompt, 21, half) == plain);
          CHECK(f.greedy(prompt, 21, wrong) == plain);
          CHECK(f.greedy(prompt, 10, plain) == std::vector(plain.begin(), plain.begin() + 10));
        }
        cpu::override_isa(old);
      }
  }
}

TEST_CASE("eval: loss per row and over all tokens") {
  Fixture f;
  DataSet data = read_dataset("tests/goldens/esft_train/data.jsonl", false);
  data.rows.resize(5);
  std::vector<Example> examples = encode_rows(data, "data.jsonl", f.tok, nullptr);
  EvalOptions opt;
  EvalResult r = eval_loss(f.ctx, *f.model, examples, {1, 2, 3, 4, 5}, opt);
  opt.batch = 1;
  EvalResult one = eval_loss(f.ctx, *f.model, examples, {1, 2, 3, 4, 5}, opt);
  std::vector<TrainRow> rows;
  for (const Example& e : examples) rows.push_back({e.ids, e.labels, {}});
  CHECK(r.score == doctest::Approx(evaluate_loss(f.ctx, *f.model, rows, 1)).epsilon(1e-6));
  double sum = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(r.rows[i].line == static_cast<int64_t>(i) + 1);
    CHECK(r.rows[i].score == doctest::Approx(one.rows[i].score).epsilon(1e-6));
    CHECK(r.rows[i].score ==
          doctest::Approx(evaluate_loss(f.ctx, *f.model, {rows[i]}, 1)).epsilon(1e-6));
    sum += r.rows[i].score * r.rows[i].more["tokens"].get<double>();
  }
  CHECK(r.score == doctest::Approx(sum / r.more["tokens"].get<double>()));
}

TEST_CASE("eval: exact compares greedy text without the white space around it") {
  Fixture f;
  std::string prompt = "User: hello\n\nAssistant:";
  std::string text = f.tok.decode(f.greedy(f.tok.encode(prompt), 12), true);
  Json right{{"prompt", prompt}, {"completion", " \n" + text + "\n"}},
      wrong{{"prompt", prompt}, {"completion", text + "x"}};
  std::string file =
      temporary_file(right.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n\n" +
                     wrong.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  DataSet data = read_dataset(file, false);
  EvalOptions opt;
  opt.max_tokens = 12;
  EvalResult r = eval_exact(f.ctx, *f.model, f.tok, eval_tasks(data, file, f.tok, nullptr), opt);
  REQUIRE(r.rows.size() == 2);
  CHECK(r.rows[1].line == 3);
  CHECK(r.rows[0].answer == text);
  CHECK(r.rows[0].score == 1);
  CHECK(r.rows[1].score == 0);
  CHECK(r.score == 0.5);
  Json j = to_json(r);
  CHECK(j["metric"] == "exact");
  CHECK(j["rows"][0]["score"] == 1);
  CHECK(j["rows"][0]["prompt"] == prompt);
  fs::remove(file);
}

TEST_CASE("eval: the prompt of a row is everything before its last answer") {
  Fixture f;
  ChatTemplate chat(
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}",
      Json::object());
  std::string file = temporary_file(
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
      R"({"role":"user","content":"c"},{"role":"assistant","content":"d "}]})"
      "\n"
      R"({"instruction":"i","conversation":[{"input":"p","output":"q"}]})"
      "\n");
  DataSet data = read_dataset(file, false);
  std::vector<EvalTask> t = eval_tasks(data, file, f.tok, &chat);
  CHECK(t[0].prompt == "<user>a<assistant>b<user>c<assistant>");
  CHECK(t[0].expected == "d ");
  CHECK(t[0].prompt_ids == f.tok.encode(t[0].prompt, false));
  CHECK(t[0].expected_ids == f.tok.encode("d ", false));
  CHECK(t[1].prompt == "<system>i<user>p<assistant>");
  data.rows.resize(1);
  t = eval_tasks(data, file, f.tok, nullptr);
  Example e = encode_esft(data.rows[0], f.tok);
  std::vector<int32_t> whole = t[0].prompt_ids;
  whole.insert(whole.end(), t[0].expected_ids.begin(), t[0].expected_ids.end());
  CHECK(whole == e.ids);
  for (const char* text : {"{\"text\":\"x\"}", "{\"input_ids\":[1],\"labels\":[1]}"}) {
    file = temporary_file(std::string("\n") + text + "\n");
    CHECK_THROWS_WITH_AS(eval_tasks(read_dataset(file, false), file, f.tok, &chat),
                         doctest::Contains(":2: no question and answer"), Error);
  }
  fs::remove(file);
}

TEST_CASE("eval: JSON answers and F1 of their fields") {
  auto match = [](const char* a, const char* b) {
    return match_json(nlohmann::json::parse(a), nlohmann::json::parse(b));
  };
  CHECK(match(R"({"a":1,"b":[2,3]})", R"({"b":[2,3],"a":1.0})").equal);
  CHECK_FALSE(match(R"({"a":[1,2]})", R"({"a":[2,1]})").equal);
  CHECK(match(R"({"a":1,"b":{"c":"x","d":"y"}})", R"({"a":1,"b":{"c":"x","d":"z"}})").f1 ==
        doctest::Approx(2.0 * 2 / 6));
  CHECK(match(R"({"a":1})", R"({"a":1,"b":2,"c":3})").f1 == doctest::Approx(2.0 / 4));
  CHECK(match("{}", "{}").f1 == 1);
  CHECK(match("{}", R"({"a":1})").f1 == 0);
  CHECK(*json_answer(" {\"a\": 1}。\n\n") == nlohmann::json::parse(R"({"a":1})"));
  CHECK(*json_answer("Sure:\n```json\n{\"a\":\n 1}\n```\nDone") ==
        nlohmann::json::parse(R"({"a":1})"));
  CHECK(*json_answer("{\"a\":\n 1}") == nlohmann::json::parse(R"({"a":1})"));
  CHECK(*json_answer("{\"a\": 1}.\nUser: more") == nlohmann::json::parse(R"({"a":1})"));
  for (const char* bad : {"", "{\"a\":1,\"a\":2}", "{a:1}", "The answer is {}"})
    CHECK_FALSE(json_answer(bad).has_value());
  CHECK_FALSE(json_answer(std::string(100000, '[')).has_value());
}

TEST_CASE("eval: choices by log-probability, whole and per character") {
  Fixture f;
  std::string file = temporary_file(
      R"({"question":"What is it? ","choices":["a cat","the dog of my neighbour","é"],"answer":1})"
      "\n"
      R"({"messages":[{"role":"user","content":"What?"}],"choices":["x","yy"],"answer":"A"})"
      "\n");
  DataSet data = read_dataset(file, false, RowKind::kQuestion);
  EvalResult r = eval_choices(f.ctx, *f.model, f.tok, data, nullptr, {});
  int64_t best = 0, best_norm = 0;
  std::vector<double> p, length{5, 23, 1};
  for (const std::string& c : data.rows[0].choices) {
    std::vector<int32_t> head = f.tok.encode("What is it?"),
                         whole = f.tok.encode("What is it?  " + c);
    p.push_back(log_probability(f, whole, head.size()));
    int64_t i = static_cast<int64_t>(p.size()) - 1;
    CHECK(r.rows[0].logprobs[i] == doctest::Approx(p[i]).epsilon(1e-4));
    if (p[i] > p[best]) best = i;
    if (p[i] / length[i] > p[best_norm] / length[best_norm]) best_norm = i;
  }
  CHECK(r.rows[0].score == (best == 1));
  CHECK(r.rows[0].more["acc_norm"].get<int>() == (best_norm == 1));
  CHECK(r.rows[0].expected == "the dog of my neighbour");
  std::vector<int32_t> head = encode_esft(data.rows[1], f.tok).ids, whole = head;
  for (int32_t id : f.tok.encode(" yy", false)) whole.push_back(id);
  CHECK(r.rows[1].logprobs[1] ==
        doctest::Approx(log_probability(f, whole, head.size())).epsilon(1e-4));

  auto bad = [&](const char* row, const char* part) {
    file = temporary_file(std::string("\n") + row + "\n");
    CHECK_THROWS_WITH_AS(read_dataset(file, false, RowKind::kQuestion), doctest::Contains(part),
                         Error);
  };
  bad(R"({"prompt":"x"})", ":2: choices is missing");
  bad(R"({"prompt":"x","choices":["a"],"answer":0})", "two or more");
  bad(R"({"prompt":"x","choices":["a","b"]})", ":2: answer is missing");
  bad(R"({"prompt":"x","choices":["a","b"],"answer":2})", "allowed: 0..1");
  bad(R"({"prompt":"x","choices":["a","b"],"answer":"C"})", "\"A\"..\"B\"");
  bad(R"({"prompt":"x","choices":["a",1],"answer":"A"})", "allowed: texts");
  bad(R"({"choices":["a","b"],"answer":"A"})", "prompt is missing");
  fs::remove(file);
}
