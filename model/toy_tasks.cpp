// The tasks of the toy language. A task draws its parts and writes question and answer; nothing
// else decides the answer.
#include "model/toy_tasks.h"

#include <algorithm>

namespace sutor::toy {
namespace {

using fmt::format;

// ---- pre-training ----

Row arithmetic(const Language&, Rng& rng) {
  int a = rng.between(10, 99), b = rng.between(10, 99);
  bool plus = rng.below(2) == 0;
  if (!plus && a < b) std::swap(a, b);
  const char* op = plus ? "+" : "-";
  return {rng.below(2) == 0 ? format("What is {} {} {}?", a, op, b)
                            : format("Compute {} {} {}.", a, op, b),
          format("{}", plus ? a + b : a - b)};
}

// Four ways to ask for each fact: a fact whose question is held out for evaluation is still told in
// training.
Row facts(const Language& world, Rng& rng) {
  const Person& p = rng.pick(world.people);
  const std::string& n = p.name;
  int way = rng.below(4);
  auto ask = [&](std::string q0, std::string q1, std::string q2, std::string q3) {
    return way == 0 ? q0 : way == 1 ? q1 : way == 2 ? q2 : q3;
  };
  switch (rng.below(4)) {
    case 0:
      return {ask(format("Where does {} live?", n), format("In which city does {} live?", n),
                  format("Tell me the city of {}.", n), format("Name the home of {}.", n)),
              p.city};
    case 1:
      return {ask(format("What is the job of {}?", n), format("What does {} work as?", n),
                  format("Tell me the job of {}.", n), format("Name the work of {}.", n)),
              p.job};
    case 2:
      return {ask(format("Which colour does {} like?", n), format("What is the colour of {}?", n),
                  format("Tell me the colour of {}.", n), format("Name the colour {} likes.", n)),
              p.colour};
    default:
      return {ask(format("Which animal does {} keep?", n), format("What is the animal of {}?", n),
                  format("Tell me the animal of {}.", n), format("Name the animal {} keeps.", n)),
              p.animal};
  }
}

Row lists(const Language&, Rng& rng) {
  std::vector<char> items;
  bool letters = rng.below(2) == 0;
  std::string pool = letters ? "abcdefghijklmnopqrstuvwxyz" : "0123456789";
  rng.shuffle(pool);
  items.assign(pool.begin(), pool.begin() + rng.between(3, 5));
  std::string q = format("{}", fmt::join(items, " "));
  bool sort = rng.below(2) == 0;
  if (sort)
    std::sort(items.begin(), items.end());
  else
    std::reverse(items.begin(), items.end());
  return {format("{}: {}", sort ? "Sort" : "Reverse", q), format("{}", fmt::join(items, " "))};
}

// The endings depend on the last letter: after a vowel -n, -d, -r; after a consonant -an, -ed, -or.
Row morphology(const Language&, Rng& rng) {
  constexpr std::string_view consonants = "bdgklmnprst", vowels = "aeiou";
  std::string stem;
  for (int i = 0; i < 2; ++i) {
    stem += rng.pick(consonants);
    stem += rng.pick(vowels);
  }
  bool vowel = rng.below(2) == 0;
  if (!vowel) stem += rng.pick(consonants);
  switch (rng.below(3)) {
    case 0:
      return {format("What is the plural of {}?", stem), stem + (vowel ? "n" : "an")};
    case 1:
      return {format("What is the past of {}?", stem), stem + (vowel ? "d" : "ed")};
    default:
      return {format("What is one who can {}?", stem), stem + (vowel ? "r" : "or")};
  }
}

Row counting(const Language&, Rng& rng) {
  std::vector<char> items(static_cast<size_t>(rng.between(3, 7)));
  constexpr std::string_view pool = "abcd";
  for (char& c : items) c = rng.pick(pool);
  char wanted = rng.pick(pool);
  return {format("How many {} in: {}", wanted, fmt::join(items, " ")),
          format("{}", std::count(items.begin(), items.end(), wanted))};
}

Row comparing(const Language&, Rng& rng) {
  int a = rng.between(10, 99), b = rng.between(10, 98);
  if (b >= a) ++b;
  bool larger = rng.below(2) == 0;
  return {format("Which is {}, {} or {}?", larger ? "larger" : "smaller", a, b),
          format("{}", larger ? std::max(a, b) : std::min(a, b))};
}

Row slots(const Language& world, Rng& rng) {
  const std::string &city = rng.pick(world.cities), &day = rng.pick(kDays);
  int n = rng.between(2, 9);
  std::string answer = format(R"({{"city":"{}","day":"{}","people":{}}})", city, day, n);
  switch (rng.below(4)) {
    case 0:
      return {format("Book a table for {} in {} on {}.", n, city, day), answer};
    case 1:
      return {format("On {} we are {} people in {}, book a table.", day, n, city), answer};
    case 2:
      return {format("A table in {} for {} on {}, please.", city, n, day), answer};
    default:
      return {format("We need a table on {} in {} for {}.", day, city, n), answer};
  }
}

struct Sentence {
  std::string adjective1, noun1, verb, adjective2, noun2;
};

Sentence sentence(Rng& rng) {
  Sentence s{"", rng.pick(kNouns), rng.pick(kVerbs), "", rng.pick(kNouns)};
  if (rng.below(2) == 0) s.adjective1 = rng.pick(kAdjectives);
  if (rng.below(2) == 0) s.adjective2 = rng.pick(kAdjectives);
  return s;
}

std::string words(std::initializer_list<std::string> list) {
  std::string out;
  for (const std::string& w : list)
    if (!w.empty()) out += (out.empty() ? "" : " ") + w;
  return out;
}
std::string english(const Sentence& s) {
  return words({s.adjective1, s.noun1, s.verb, s.adjective2, s.noun2});
}

Sentence translated(const Sentence& s, const Lexicon& l) {
  auto t = [&](const std::string& w) { return w.empty() ? w : l.at(w); };
  return {t(s.adjective1), t(s.noun1), t(s.verb), t(s.adjective2), t(s.noun2)};
}

// Talvi keeps the English order; Oruk puts the verb last.
Row languages(const Language& world, Rng& rng) {
  Sentence s = sentence(rng);
  if (rng.below(2) == 0)
    return {format("Translate to Talvi: {}", english(s)), english(translated(s, world.talvi))};
  Sentence o = translated(s, world.oruk);
  return {format("Translate to Oruk: {}", english(s)),
          words({o.adjective1, o.noun1, o.adjective2, o.noun2, o.verb})};
}

// A word nobody knows: the model can only copy it. A general language model copies anything; these
// two tasks give the embedded one that ability, without which a new task's words are out of reach
// of its experts (docs/results.md).
std::string unknown_word(Rng& rng) {
  constexpr std::string_view consonants = "bcdfghjklmnpqrstvwxz", vowels = "aeiou";
  std::string word;
  for (int i = rng.between(1, 3); i > 0; --i) {
    if (rng.below(4) != 0) word += rng.pick(consonants);
    word += rng.pick(vowels);
    if (rng.below(3) == 0) word += rng.pick(consonants);
  }
  return word;
}

Row repeating(const Language&, Rng& rng) {
  Words items(static_cast<size_t>(rng.between(1, 4)));
  for (std::string& w : items) w = unknown_word(rng);
  std::string all = format("{}", fmt::join(items, " "));
  return {format("{}: {}", rng.below(2) == 0 ? "Repeat" : "Say", all), all};
}

Row lookup(const Language&, Rng& rng) {
  Words keys, values;
  const int n = rng.between(2, 4);
  while (static_cast<int>(keys.size()) < n) {  // all words differ, so that the answer is one
    std::string k = unknown_word(rng), v = unknown_word(rng);
    auto known = [&](const std::string& w) {
      return std::count(keys.begin(), keys.end(), w) + std::count(values.begin(), values.end(), w);
    };
    if (k == v || known(k) > 0 || known(v) > 0) continue;
    keys.push_back(k);
    values.push_back(v);
  }
  std::string facts;
  for (int i = 0; i < n; ++i)
    facts += format("{}{} is {}", i == 0 ? "" : ", ", keys[static_cast<size_t>(i)],
                    values[static_cast<size_t>(i)]);
  const auto at = static_cast<size_t>(rng.below(n));
  if (rng.below(2) == 0) return {format("{}. What is {}?", facts, keys[at]), values[at]};
  return {format("{}. Which is {}?", facts, values[at]), keys[at]};
}

// ---- held out ----

Row translation(const Language& world, Rng& rng) {
  Sentence s = sentence(rng);
  return {format("Translate to Zemi: {}", english(s)), english(translated(s, world.zemi))};
}

Row intent(const Language& world, Rng& rng) {
  static const Words rooms{"kitchen", "hall", "garden", "cellar", "attic", "porch"},
      songs{"jazz", "rock", "opera", "folk", "soul", "disco"};
  static const Words openings{"", "please ", "hey, ", "now ", "ok, ", "then "};
  auto answer = [](const char* name, const std::string& key, const std::string& value,
                   const std::string& key2, const std::string& value2) {
    return format(R"({{"intent":"{}","{}":"{}","{}":"{}"}})", name, key, value, key2, value2);
  };
  const std::string &room = rng.pick(rooms), &colour = rng.pick(kColours), &song = rng.pick(songs),
                    &who = rng.pick(world.strangers);
  const std::string& day = rng.pick(kDays);
  int hour = rng.between(1, 12);
  bool second = rng.below(2) == 0;
  const std::string& o = rng.pick(openings);
  switch (rng.below(4)) {
    case 0:
      return {o + (second ? format("make the light in the {} {}", room, colour)
                          : format("I want {} light in the {}", colour, room)),
              answer("light", "room", room, "value", colour)};
    case 1:
      return {o + (second ? format("play some {} in the {}", song, room)
                          : format("the {} needs {} music", room, song)),
              answer("music", "room", room, "value", song)};
    case 2:
      return {o + (second ? format("wake me on {} at {}", day, hour)
                          : format("alarm at {} on {}", hour, day)),
              answer("alarm", "day", day, "value", format("{}", hour))};
    default:
      return {o + (second ? format("call {} on {}", who, day)
                          : format("on {} I must phone {}", day, who)),
              answer("call", "day", day, "value", who)};
  }
}

Row summary(const Language& world, Rng& rng) {
  const std::string &name = rng.pick(world.strangers), &city = rng.pick(world.cities),
                    &job = rng.pick(kJobs), &animal = rng.pick(kAnimals);
  int n = rng.between(2, 9);
  Words lines{format("{} lives in {}.", name, city), format("{} is a {}.", name, job),
              format("{} has {} of {} kind.", name, n, animal)};
  rng.shuffle(lines);
  return {format("{} Summary?", fmt::join(lines, " ")),
          format("{} | {} | {} | {} {}", name, job, city, n, animal)};
}

// Law: nothing done with leave is punished. Otherwise worth below 50 costs a fine, from 50 on it is
// jail, and a second offence is one step worse: fine -> jail -> exile. Broken things are repaired
// instead of a fine.
Row law(const Language& world, Rng& rng) {
  static const Words acts{"took", "broke", "hid"};
  const std::string &who = rng.pick(world.strangers), &act = rng.pick(acts),
                    &animal = rng.pick(kNouns);
  int worth = rng.between(10, 99);
  bool leave = rng.below(4) == 0, again = rng.below(2) == 0;
  int step = (worth >= 50 ? 1 : 0) + (again ? 1 : 0);
  std::string penalty = leave       ? "none"
                        : step == 0 ? (act == "broke" ? "repair" : "fine")
                        : step == 1 ? "jail"
                                    : "exile";
  return {format("Case: {} {} a {} worth {} {} leave, {} offence.", who, act, animal, worth,
                 leave ? "with" : "without", again ? "second" : "first"),
          format("Verdict: {}. Penalty: {}.", leave ? "free" : "guilty", penalty)};
}

}  // namespace

const std::vector<Task>& tasks() {
  static const std::vector<Task> all{{"arithmetic", false, arithmetic},
                                     {"facts", false, facts},
                                     {"lists", false, lists},
                                     {"morphology", false, morphology},
                                     {"counting", false, counting},
                                     {"comparing", false, comparing},
                                     {"slots", false, slots},
                                     {"repeating", false, repeating},
                                     {"lookup", false, lookup},
                                     {"languages", false, languages},
                                     {"intent", true, intent},
                                     {"summary", true, summary},
                                     {"law", true, law},
                                     {"translation", true, translation}};
  return all;
}

}  // namespace sutor::toy
