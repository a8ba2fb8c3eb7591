#pragma once
// The embedded model's data: a small generated world (people, cities, invented languages) and
// question -> answer tasks about it, made by code from a seed, without files. Eight pre-training
// tasks give the model its general ability; four held-out tasks (the four kinds of the ESFT paper:
// intent, summary, law, translation) use formats and words that pre-training never shows, so that
// fine-tuning has something to learn and something to forget. Every answer is a function of its
// question. Tokenizer: model/toy_tokenizer.h. Test: tests/toy_language.cpp.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace sutor::toy {

constexpr uint64_t kWorldSeed = 1;  // the world the embedded model was trained on

// splitmix64: the same numbers on every platform, which std's distributions don't promise.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next();
  int below(int n);  // 0..n-1, n >= 1
  int between(int lo, int hi) { return lo + below(hi - lo + 1); }
  template <class V>
  const auto& pick(const V& v) {
    return v[static_cast<size_t>(below(static_cast<int>(std::size(v))))];
  }
  template <class V>
  void shuffle(V& v) {
    for (int i = static_cast<int>(v.size()) - 1; i > 0; --i) std::swap(v[i], v[below(i + 1)]);
  }

 private:
  uint64_t state_;
};

struct Row {
  std::string question, answer;
  Json json() const;  // {"messages":[user, assistant]}
};

// Which side a question belongs to depends on its text alone: one in ten is for evaluation, and no
// question is on both.
enum class Split { kTrain, kEval };
Split split_of(std::string_view question);

std::vector<std::string> pretrain_tasks();
std::vector<std::string> heldout_tasks();

struct Person {
  std::string name, city, job, colour, animal;
};
using Lexicon = std::map<std::string, std::string>;  // English word -> invented word

class Language {
 public:
  explicit Language(uint64_t seed = kWorldSeed);

  Row sample(const std::string& task, Rng& rng) const;  // throws on an unknown task
  Row sample(const std::string& task, Rng& rng, Split side) const;
  // n rows of one side without repetition; fewer when the task has not that many questions.
  std::vector<Row> distinct(const std::string& task, int n, Rng& rng, Split side) const;
  // n rows of the training side, tasks in equal shares and random order; questions may repeat.
  std::vector<Row> pretraining(int n, Rng& rng) const;

  std::vector<Person> people;  // facts of the world
  std::vector<std::string> cities, strangers;
  Lexicon talvi, oruk, zemi;  // zemi only ever appears in the held-out task "translation"
};

// The model's answer counts when it is the expected one, white space around it aside.
bool exact_match(std::string_view answer, std::string_view expected);
// Mean over pretrain_tasks() of the exact-match rates; throws when one is missing.
double general_score(const std::map<std::string, double>& exact_by_task);

}  // namespace sutor::toy
