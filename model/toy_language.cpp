// The world and the choice of rows; the tasks themselves are in toy_tasks.cpp.
#include "model/toy_language.h"

#include <set>

#include "engine/random.h"
#include "model/toy_tasks.h"

namespace sutor::toy {
namespace {

// Distinct pronounceable words: consonant-vowel syllables, with a last consonant half of the time.
class WordMaker {
 public:
  explicit WordMaker(uint64_t seed) : rng_(seed) {
    for (const auto* list : {&kNouns, &kVerbs, &kAdjectives, &kJobs, &kColours, &kAnimals})
      used_.insert(list->begin(), list->end());
  }
  std::string word(std::string_view consonants, std::string_view vowels, int syllables) {
    for (;;) {
      std::string w;
      for (int i = 0; i < syllables; ++i) {
        w += rng_.pick(consonants);
        w += rng_.pick(vowels);
      }
      if (rng_.below(2) != 0) w += rng_.pick(consonants);
      if (used_.insert(w).second) return w;
    }
  }
  std::vector<std::string> names(int n, std::string_view consonants, std::string_view vowels) {
    std::vector<std::string> out;
    for (int i = 0; i < n; ++i) {
      out.push_back(word(consonants, vowels, 2));
      out.back()[0] = static_cast<char>(out.back()[0] - 'a' + 'A');
    }
    return out;
  }
  // Each language has its own sounds.
  Lexicon lexicon(std::string_view consonants, std::string_view vowels) {
    Lexicon l;
    for (const auto* list : {&kNouns, &kVerbs, &kAdjectives})
      for (const std::string& w : *list) l[w] = word(consonants, vowels, 2);
    return l;
  }
  Rng& rng() { return rng_; }

 private:
  Rng rng_;
  std::set<std::string> used_;
};

}  // namespace

uint64_t Rng::next() { return next_random(state_); }

// The high bits scaled: its bias, n / 2^32, is far below what any sample here could show.
int Rng::below(int n) {
  return static_cast<int>(((next() >> 32) * static_cast<uint64_t>(n)) >> 32);
}

Json Row::json() const {
  return {{"messages", Json::array({{{"role", "user"}, {"content", question}},
                                    {{"role", "assistant"}, {"content", answer}}})}};
}

Split split_of(std::string_view question) {
  uint64_t h = 0xcbf29ce484222325;  // FNV-1a, mixed once more because its low bits follow the last
                                    // characters
  for (char c : question) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return Rng(h).below(10) == 0 ? Split::kEval : Split::kTrain;
}

Language::Language(uint64_t seed) {
  WordMaker make(seed);
  cities = make.names(12, "nrvlbkdst", "aeo");
  std::vector<std::string> names = make.names(32, "mtrlnbsjkd", "aeiou");
  strangers = make.names(12, "pgfhwzd", "aiou");
  for (const std::string& name : names)
    people.push_back({name, make.rng().pick(cities), make.rng().pick(kJobs),
                      make.rng().pick(kColours), make.rng().pick(kAnimals)});
  talvi = make.lexicon("tlvsnm", "aiu");
  oruk = make.lexicon("rkgdbz", "oue");
  zemi = make.lexicon("zmfpwh", "eia");
}

Row Language::sample(const std::string& task, Rng& rng) const {
  std::string known;
  for (const Task& t : tasks()) {
    if (task == t.name) return t.make(*this, rng);
    known += known.empty() ? t.name : fmt::format(", {}", t.name);
  }
  fail("toy task '{}' is not known; known: {}", task, known);
}

Row Language::sample(const std::string& task, Rng& rng, Split side) const {
  for (;;) {
    Row row = sample(task, rng);
    if (split_of(row.question) == side) return row;
  }
}

std::vector<Row> Language::distinct(const std::string& task, int n, Rng& rng, Split side) const {
  constexpr int kTriesPerRow =
      200;  // after that many repetitions in a row the task has no more to give
  std::vector<Row> rows;
  std::set<std::string> seen;
  for (int tries = 0; static_cast<int>(rows.size()) < n && tries < kTriesPerRow; ++tries) {
    Row row = sample(task, rng, side);
    if (!seen.insert(row.question).second) continue;
    rows.push_back(std::move(row));
    tries = 0;
  }
  return rows;
}

std::vector<Row> Language::pretraining(int n, Rng& rng) const {
  const std::vector<std::string> names = pretrain_tasks();
  std::vector<Row> rows;
  rows.reserve(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i)
    rows.push_back(sample(names[static_cast<size_t>(i) % names.size()], rng, Split::kTrain));
  rng.shuffle(rows);
  return rows;
}

std::vector<std::string> pretrain_tasks() {
  std::vector<std::string> names;
  for (const Task& t : tasks())
    if (!t.heldout) names.push_back(t.name);
  return names;
}

std::vector<std::string> heldout_tasks() {
  std::vector<std::string> names;
  for (const Task& t : tasks())
    if (t.heldout) names.push_back(t.name);
  return names;
}

bool exact_match(std::string_view answer, std::string_view expected) {
  auto strip = [](std::string_view s) {
    size_t lo = s.find_first_not_of(" \t\r\n");
    return lo == s.npos ? std::string_view() : s.substr(lo, s.find_last_not_of(" \t\r\n") - lo + 1);
  };
  return strip(answer) == strip(expected);
}

double general_score(const std::map<std::string, double>& exact_by_task) {
  double sum = 0;
  const std::vector<std::string> names = pretrain_tasks();
  for (const std::string& name : names) {
    auto it = exact_by_task.find(name);
    check(it != exact_by_task.end(), "general score: no result of task {}", name);
    sum += it->second;
  }
  return sum / static_cast<double>(names.size());
}

}  // namespace sutor::toy
