#pragma once
// splitmix64 (Steele, Lea, Flood, OOPSLA 2014; Vigna's constants): the project's one generator. The
// same numbers on every machine.

#include <cstdint>

namespace sutor {

// The next number of the sequence that `state` stands in.
inline uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// `state` after n numbers: parts of one sequence can be drawn side by side.
inline uint64_t random_after(uint64_t state, int64_t n) {
  return state + static_cast<uint64_t>(n) * 0x9e3779b97f4a7c15u;
}

// As a hash of one number.
inline uint64_t mix(uint64_t z) { return next_random(z); }

}  // namespace sutor
