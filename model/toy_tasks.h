#pragma once
// The list of tasks of the toy language and the English words they are made of
// (model/toy_language.h explains).

#include <string>
#include <vector>

#include "model/toy_language.h"

namespace sutor::toy {

struct Task {
  const char* name;
  bool heldout;
  Row (*make)(const Language&, Rng&);
};
const std::vector<Task>& tasks();

using Words = std::vector<std::string>;
inline const Words kNouns{"cat",   "dog",   "bird",  "king", "child", "tree",
                          "river", "stone", "house", "ship", "wolf",  "queen"};
inline const Words kVerbs{"sees", "finds", "loves", "takes", "calls", "fears"};
inline const Words kAdjectives{"old", "small", "wise", "cold", "happy", "dark"};
inline const Words kJobs{"baker", "doctor",  "farmer", "judge",
                         "miner", "painter", "singer", "teacher"};
inline const Words kColours{"red", "blue", "green", "white", "black", "yellow"};
inline const Words kAnimals{"horse", "goat", "fox", "duck", "sheep", "bear"};
inline const Words kDays{"Monday", "Tuesday",  "Wednesday", "Thursday",
                         "Friday", "Saturday", "Sunday"};

}  // namespace sutor::toy
