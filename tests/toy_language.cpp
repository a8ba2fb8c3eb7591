// The toy language: reproducible, disjoint splits, short rows, and every answer recomputed here
// from the question's text.
#include "model/toy_language.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "io/file.h"
#include "io/tokenizer.h"
#include "model/toy_tokenizer.h"

using namespace sutor;
using namespace sutor::toy;

namespace {

std::vector<std::string> split(const std::string& s) {
  std::istringstream in(s);
  std::vector<std::string> out;
  for (std::string w; in >> w;) out.push_back(w);
  return out;
}
// The words without punctuation at their ends.
std::vector<std::string> bare(const std::string& s) {
  std::vector<std::string> out = split(s);
  for (std::string& w : out)
    while (!w.empty() && std::string(".,?:").find(w.back()) != std::string::npos) w.pop_back();
  return out;
}
bool has(const std::string& s, const std::string& part) { return s.find(part) != s.npos; }
std::string after_colon(const std::string& s) { return s.substr(s.find(": ") + 2); }
std::vector<std::string> all_tasks() {
  std::vector<std::string> t = pretrain_tasks(), h = heldout_tasks();
  t.insert(t.end(), h.begin(), h.end());
  return t;
}

// What the answer must be, by the rules of the task's description; empty: no such question.
std::string expected(const std::string& task, const std::string& q, const Language& world) {
  std::vector<std::string> w = bare(q);
  if (task == "arithmetic") {
    size_t at = w.size() - 3;
    int a = std::stoi(w[at]), b = std::stoi(w[at + 2]);
    return std::to_string(w[at + 1] == "+" ? a + b : a - b);
  }
  if (task == "comparing") {
    int a = std::stoi(w[3]), b = std::stoi(w[5]);
    return std::to_string((a > b) == (w[2] == "larger") ? a : b);
  }
  if (task == "counting") {
    std::vector<std::string> items = split(after_colon(q));
    return std::to_string(std::count(items.begin(), items.end(), w[2]));
  }
  if (task == "lists") {
    std::vector<std::string> items = split(after_colon(q));
    if (w[0] == "Sort")
      std::sort(items.begin(), items.end());
    else
      std::reverse(items.begin(), items.end());
    std::string out;
    for (const std::string& i : items) out += (out.empty() ? "" : " ") + i;
    return out;
  }
  if (task == "repeating") return after_colon(q);
  if (task == "lookup") {
    bool forward = has(q, "What");
    const std::string asked = w.back();
    for (size_t i = 0; i + 2 < w.size(); ++i)
      if (w[i + 1] == "is" && w[i] != "What" && w[i] != "Which" &&
          (forward ? w[i] : w[i + 2]) == asked)
        return forward ? w[i + 2] : w[i];
  }
  if (task == "morphology") {
    std::string stem = w.back();
    bool vowel = std::string("aeiou").find(stem.back()) != std::string::npos;
    return stem + (has(q, "plural") ? (vowel ? "n" : "an")
                   : has(q, "past") ? (vowel ? "d" : "ed")
                                    : (vowel ? "r" : "or"));
  }
  if (task == "facts")
    for (const Person& p : world.people)
      if (std::count(w.begin(), w.end(), p.name))
        return has(q, "colour")                  ? p.colour
               : has(q, "animal")                ? p.animal
               : has(q, "job") || has(q, "work") ? p.job
                                                 : p.city;
  if (task == "languages" || task == "translation") {
    const Lexicon& l = w[2] == "Talvi" ? world.talvi : w[2] == "Oruk" ? world.oruk : world.zemi;
    static const std::set<std::string> verbs{"sees", "finds", "loves", "takes", "calls", "fears"};
    std::string out, verb;
    for (const std::string& e : split(after_colon(q))) {
      if (w[2] == "Oruk" && verbs.count(e))
        verb = " " + l.at(e);
      else
        out += (out.empty() ? "" : " ") + l.at(e);
    }
    return out + verb;
  }
  if (task == "law") {
    bool leave = has(q, " with leave"), second = has(q, "second"), broke = has(q, " broke ");
    int worth = std::stoi(q.substr(q.find("worth ") + 6));
    if (leave) return "Verdict: free. Penalty: none.";
    std::string penalty = worth >= 50 && second   ? "exile"
                          : worth >= 50 || second ? "jail"
                          : broke                 ? "repair"
                                                  : "fine";
    return "Verdict: guilty. Penalty: " + penalty + ".";
  }
  if (task == "summary") {
    auto word_after = [&](const std::string& key) {
      return bare(q.substr(q.find(key) + key.size()))[0];
    };
    return w[0] + " | " + word_after(" is a ") + " | " + word_after("lives in ") + " | " +
           word_after(" has ") + " " + word_after(" of ");
  }
  return "";
}

}  // namespace

TEST_CASE("toy language: the same seed gives the same world and rows, another seed another") {
  Language a(3), b(3), c(4);
  for (const std::string& task : all_tasks()) {
    Rng r1(9), r2(9);
    for (int i = 0; i < 50; ++i) {
      Row x = a.sample(task, r1), y = b.sample(task, r2);
      CHECK(x.question == y.question);
      CHECK(x.answer == y.answer);
    }
  }
  CHECK(a.zemi != c.zemi);
  CHECK(a.cities != c.cities);
  CHECK(Language(1).talvi != Language(1).oruk);
  // Fixed numbers: another platform or compiler must give the embedded model's world.
  Rng r(1);
  CHECK(r.next() == 0x910a2dec89025cc1u);
  CHECK_THROWS_AS(a.sample("chess", r), Error);
}

TEST_CASE("toy language: answers follow from the questions") {
  Language world;
  Rng rng(5);
  for (const std::string& task : all_tasks())
    for (int i = 0; i < 400; ++i) {
      Row row = world.sample(task, rng);
      CAPTURE(row.question);
      if (task == "slots" || task == "intent") {
        Json j = parse_json(row.answer, "answer");
        for (const auto& [key, value] : j.items()) {
          if (key == "intent") continue;
          std::string text = value.is_string() ? value.get<std::string>() : value.dump();
          std::vector<std::string> w = bare(row.question);
          CHECK(std::count(w.begin(), w.end(), text) == 1);
        }
        CHECK(j.size() == 3);
      } else {
        CHECK(expected(task, row.question, world) == row.answer);
      }
    }
}

TEST_CASE("toy language: one answer per question; training and evaluation share no question") {
  Language world;
  for (const std::string& task : all_tasks()) {
    CAPTURE(task);
    Rng r1(1), r2(2);
    std::map<std::string, std::string> train;
    for (const Row& r : world.distinct(task, 2000, r1, Split::kTrain)) train[r.question] = r.answer;
    std::vector<Row> eval = world.distinct(task, 200, r2, Split::kEval);
    CHECK(train.size() >= 400);
    CHECK(eval.size() >= 30);
    for (const Row& r : eval) CHECK(train.count(r.question) == 0);
    Rng r3(3);
    for (int i = 0; i < 2000; ++i) {
      Row r = world.sample(task, r3);
      auto it = train.find(r.question);
      if (it != train.end()) CHECK(it->second == r.answer);
    }
  }
}

TEST_CASE("toy language: every fact held out in one form is told in another") {
  Language world;
  Rng rng(7);
  std::set<std::string> told, asked;
  auto key = [](const Row& r, const std::string& name) {
    const std::string& q = r.question;
    return name + (has(q, "colour")                  ? " colour"
                   : has(q, "animal")                ? " animal"
                   : has(q, "job") || has(q, "work") ? " job"
                                                     : " city");
  };
  for (int i = 0; i < 20000; ++i) {
    Row r = world.sample("facts", rng);
    for (const Person& p : world.people)
      if (std::vector<std::string> w = bare(r.question); std::count(w.begin(), w.end(), p.name))
        (split_of(r.question) == Split::kTrain ? told : asked).insert(key(r, p.name));
  }
  CHECK(told.size() == world.people.size() * 4);
  CHECK(std::includes(told.begin(), told.end(), asked.begin(), asked.end()));
}

TEST_CASE("toy language: pre-training never shows the held-out language or tasks") {
  Language world;
  Rng rng(1);
  std::set<std::string> seen;
  for (const Row& r : world.pretraining(8000, rng))
    for (const std::string& text : {r.question, r.answer})
      for (const std::string& w : bare(text)) seen.insert(w);
  for (const auto& [english, word] : world.zemi) CHECK(seen.count(word) == 0);
  for (const std::string& s : world.strangers) CHECK(seen.count(s) == 0);
  for (const char* w : {"Zemi", "Verdict", "Summary", "alarm"}) CHECK(seen.count(w) == 0);
}

TEST_CASE("toy language: the tokenizer loads, returns the text, and rows fit 96 tokens") {
  std::string dir =
      (std::filesystem::temp_directory_path() / fmt::format("sutor-toy-{}", getpid())).string();
  std::filesystem::create_directories(dir);
  TokenizerFiles files = toy_tokenizer(kWorldSeed);
  CHECK(files.tokenizer_json == toy_tokenizer(kWorldSeed).tokenizer_json);
  write_file_atomic(dir + "/tokenizer.json", files.tokenizer_json);
  write_file_atomic(dir + "/tokenizer_config.json", files.tokenizer_config_json);
  Tokenizer t = Tokenizer::load(dir);
  std::filesystem::remove_all(dir);
  CHECK(t.vocab_size() == 512);
  CHECK(t.bos() == 510);
  CHECK(t.eos() == 511);
  CHECK(t.encode("x")[0] == 510);
  for (const char* text :
       {"User: hello\n\nAssistant: h\xc3\xa9llo \xe4\xb8\x96  12", "{\"a\":\"b\"}", "\x01 tab\t"})
    CHECK(t.decode(t.encode(text, false)) == text);
  Language world;
  Rng rng(11);
  for (const std::string& task : all_tasks()) {
    size_t longest = 0, total = 0;
    for (int i = 0; i < 500; ++i) {
      Row r = world.sample(task, rng);
      std::string text = "User: " + r.question + "\n\nAssistant: " + r.answer;
      std::vector<int32_t> ids = t.encode(text, false);
      CHECK(t.decode(ids) == text);
      longest = std::max(longest, ids.size() + 2);  // bos and eos
      total += ids.size() + 2;
    }
    MESSAGE(task << ": " << total / 500 << " tokens on average, " << longest << " at the most");
    CHECK(longest <= 96);
  }
}

TEST_CASE("toy language: scores") {
  CHECK(exact_match(" 42\n", "42"));
  CHECK_FALSE(exact_match("4 2", "42"));
  CHECK_FALSE(exact_match("", "42"));
  std::map<std::string, double> exact;
  for (const std::string& t : pretrain_tasks()) exact[t] = 0.5;
  CHECK(general_score(exact) == doctest::Approx(0.5));
  exact.erase("lists");
  CHECK_THROWS_AS(general_score(exact), Error);
}
