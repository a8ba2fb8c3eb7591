#pragma once
// Reads the keys of a config.json: a key that is absent or null has the fallback its family
// publishes or is an error; a value that is not implemented always is one. Errors name file, key,
// value and what is allowed. What was asked for is kept: a key that nobody asked for may be
// misspelt.

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "io/json.h"

namespace sutor {

struct Reader {
  const Json& j;
  std::string where;  // path, for messages

  mutable std::set<std::string> asked{};  // keys, whether they are there or not

  bool has(const char* key) const {
    asked.insert(key);
    return j.contains(key) && !j.at(key).is_null();
  }

  template <class T>
  T value(const char* key, T fallback) const {
    return has(key) ? get<T>(j, key, where) : fallback;
  }

  int64_t positive(const char* key) const {
    asked.insert(key);
    return at_least(key, 1, get<int64_t>(j, key, where));
  }
  int64_t positive(const char* key, int64_t fallback) const {
    return has(key) ? positive(key) : fallback;
  }
  int64_t not_negative(const char* key, int64_t fallback) const {
    return at_least(key, 0, value<int64_t>(key, fallback));
  }

  // A finite number above 0 (lowest: from that number on).
  double number(const char* key, double fallback, double lowest = 0) const {
    double v = value<double>(key, fallback);
    check(std::isfinite(v) && v >= lowest && v > 0, "{}: {} is {}, must be {} {}", where, key, v,
          lowest > 0 ? "at least" : "above", lowest);
    return v;
  }

  // Which of several names for the same thing the file uses; the first if none, so that a missing
  // key is named.
  const char* one_of(std::initializer_list<const char*> keys) const {
    for (const char* key : keys)
      if (has(key)) return key;
    return *keys.begin();
  }

  // The value must be one of those this engine implements.
  std::string choice(const char* key, const std::string& fallback,
                     const std::vector<std::string>& allowed) const {
    std::string v = value<std::string>(key, fallback);
    check(std::find(allowed.begin(), allowed.end(), v) != allowed.end(),
          "{}: {} is \"{}\", known: {}", where, key, v, fmt::join(allowed, ", "));
    return v;
  }

  // A switch that must stand where it stands in published models of the family.
  void fixed(const char* key, bool want) const {
    check(value(key, want) == want,
          "{}: {} is {}, not implemented for this model_type (allowed: {})", where, key, !want,
          want);
  }

 private:
  int64_t at_least(const char* key, int64_t lowest, int64_t v) const {
    check(v >= lowest && v < (int64_t{1} << 31), "{}: {} is {}, must be {} or more", where, key, v,
          lowest);
    return v;
  }
};

}  // namespace sutor
