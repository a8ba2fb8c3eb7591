#pragma once
// The only way things fail: `fail("...", values)` throws Error with one line for the user;
// `check(cond, "...", values)` likewise. Library code throws, apps/main.cpp catches once, prints
// the line and exits 1.

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace sutor {

// One line that names the file, key or shape at fault, the value found and the values allowed.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... A>
[[noreturn]] void fail(fmt::format_string<A...> f, A&&... a) {
  throw Error(fmt::format(f, std::forward<A>(a)...));
}

template <class... A>
void check(bool ok, fmt::format_string<A...> f, A&&... a) {
  if (!ok) [[unlikely]]
    throw Error(fmt::format(f, std::forward<A>(a)...));
}

}  // namespace sutor
