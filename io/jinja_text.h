#pragma once
// Python's string methods, by code points. Internal to io/jinja_*.cpp. Functions whose result may
// be much longer than what they are given take a cap and throw Error above it.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sutor::jinja {

constexpr size_t kMaxOutput = size_t{64} << 20;  // bytes of any text

enum Sides { kLeft = 1, kRight = 2, kBoth = 3 };

// Python's white space: Unicode's and the separators 1C-1F.
bool python_space(char32_t c);
// Strips characters of `set`; null: white space.
std::string trim(const std::string& s, int sides = kBoth, const std::string* set = nullptr);
// The first `count` occurrences (-1: all); an empty `a` stands before, between and after all
// characters.
std::string replaced(const std::string& s, const std::string& a, const std::string& b,
                     int64_t count = -1);
// At most `max` cuts (-1: any), counted from the left or the right. `sep` null: at white space.
std::vector<std::string> split(const std::string& s, const std::string* sep, int64_t max,
                               bool from_right);
std::vector<std::string> chars(const std::string& s);                          // UTF-8 code points
std::vector<std::string> lines(const std::string& s, bool keep_ends = false);  // str.splitlines()
// upper, lower, title, capitalize, swapcase or casefold.
std::string change_case(const std::string& s, std::string_view how);
// isalpha, isdigit, isnumeric, isdecimal, isalnum, isspace, isupper or islower.
bool all_of_class(const std::string& s, std::string_view how);
// Code points before byte `at`; the byte before which there are n code points.
int64_t chars_before(const std::string& s, size_t at);
// ljust, rjust, center, zfill.
std::string padded(const std::string& s, int64_t width, std::string_view how,
                   const std::string& fill);

}  // namespace sutor::jinja
