#pragma once
// Tables of damaged files, each with the error it must give: one line that says what is wrong.

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <vector>

#include "engine/error.h"

namespace sutor::test {

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

struct Corruption {
  std::string bytes, expect;  // expect: part of the error, or "no error"
};

inline void check_corruptions(const std::vector<Corruption>& rows,
                              const std::function<void(const std::string& bytes)>& read) {
  for (const Corruption& r : rows) {
    std::string e = error_of([&] { read(r.bytes); });
    CAPTURE(e);
    CAPTURE(r.expect);
    CHECK(e.find(r.expect) != std::string::npos);
    CHECK(e.find('\n') == std::string::npos);
  }
}

}  // namespace sutor::test
