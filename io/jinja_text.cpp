// Python's string methods by code points (io/jinja_text.h): str.strip, replace, split, splitlines,
// case and character classes. Test: tests/jinja.cpp against jinja2.

#include "io/jinja_text.h"

#include <algorithm>

#include "engine/error.h"
#include "io/utf8.h"

namespace sutor::jinja {
namespace {

void grow(std::string& out, std::string_view more) {
  check(out.size() + more.size() <= kMaxOutput, "a template's text exceeds {} bytes", kMaxOutput);
  out += more;
}

std::vector<std::string> split_spaces(const std::string& s, int64_t max, bool from_right) {
  // Words first; then the ones beyond `max` are one piece of the text again.
  std::vector<std::pair<size_t, size_t>> words;
  for (size_t i = 0; i < s.size();) {
    size_t b = i;
    if (python_space(next_char(s, i))) continue;
    size_t e = i;
    while (i < s.size()) {
      size_t at = i;
      if (python_space(next_char(s, i))) {
        i = at;
        break;
      }
      e = i;
    }
    words.emplace_back(b, e);
  }
  std::vector<std::string> out;
  const int64_t n = static_cast<int64_t>(words.size());
  const bool cut = max >= 0 && n > max + 1;
  if (cut && from_right) out.push_back(s.substr(0, words[n - max - 1].second));
  for (int64_t i = cut && from_right ? n - max : 0; i < n; ++i) {
    if (cut && !from_right && i == max) {
      out.push_back(s.substr(words[i].first));
      break;
    }
    out.push_back(s.substr(words[i].first, words[i].second - words[i].first));
  }
  return out;
}

}  // namespace

bool python_space(char32_t c) { return is_space(c) || (c >= 0x1c && c <= 0x1f); }

std::string trim(const std::string& s, int sides, const std::string* set) {
  std::vector<char32_t> wanted;
  if (set != nullptr)
    for (size_t i = 0; i < set->size();) wanted.push_back(next_char(*set, i));
  auto strips = [&](char32_t c) {
    return set == nullptr ? python_space(c)
                          : std::find(wanted.begin(), wanted.end(), c) != wanted.end();
  };
  size_t b = 0, e = s.size();
  if (sides & kLeft)
    for (size_t i = b; b < e && strips(next_char(s, i)); b = i) {
    }
  if (sides & kRight)
    while (e > b) {
      size_t i = char_before(s, e), at = i;
      if (!strips(next_char(s, at))) break;
      e = i;
    }
  return s.substr(b, e - b);
}

std::string replaced(const std::string& s, const std::string& a, const std::string& b,
                     int64_t count) {
  std::string out;
  size_t i = 0;
  if (a.empty()) {
    while (count-- != 0) {
      grow(out, b);
      if (i >= s.size()) return out;
      size_t at = i;
      next_char(s, i);
      grow(out, std::string_view(s).substr(at, i - at));
    }
    return out + s.substr(i);
  }
  for (size_t p; count-- != 0 && (p = s.find(a, i)) != s.npos; i = p + a.size()) {
    grow(out, std::string_view(s).substr(i, p - i));
    grow(out, b);
  }
  grow(out, std::string_view(s).substr(i));
  return out;
}

std::vector<std::string> split(const std::string& s, const std::string* sep, int64_t max,
                               bool from_right) {
  if (sep == nullptr) return split_spaces(s, max, from_right);
  check(!sep->empty(), "split: empty separator");
  std::vector<std::string> out;
  if (from_right) {
    size_t end = s.size();
    while (max-- != 0 && end >= sep->size()) {
      size_t p = s.rfind(*sep, end - sep->size());
      if (p == s.npos) break;
      out.push_back(s.substr(p + sep->size(), end - p - sep->size()));
      end = p;
      if (p < sep->size()) break;
    }
    out.push_back(s.substr(0, end));
    std::reverse(out.begin(), out.end());
    return out;
  }
  size_t i = 0;
  for (size_t p; max-- != 0 && (p = s.find(*sep, i)) != s.npos; i = p + sep->size())
    out.push_back(s.substr(i, p - i));
  out.push_back(s.substr(i));
  return out;
}

std::vector<std::string> chars(const std::string& s) {
  std::vector<std::string> out;
  for (size_t i = 0; i < s.size();) {
    size_t b = i;
    next_char(s, i);
    out.push_back(s.substr(b, i - b));
  }
  return out;
}

std::vector<std::string> lines(const std::string& s, bool keep_ends) {
  std::vector<std::string> out;
  size_t begin = 0;
  for (size_t i = 0; i < s.size();) {
    const size_t at = i;
    const char32_t c = next_char(s, i);
    const bool end =
        (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!end) continue;
    if (c == '\r' && i < s.size() && s[i] == '\n') ++i;
    out.push_back(s.substr(begin, (keep_ends ? i : at) - begin));
    begin = i;
  }
  if (begin < s.size()) out.push_back(s.substr(begin));
  return out;
}

std::string change_case(const std::string& s, std::string_view how) {
  std::string out;
  bool start = true;
  for (size_t i = 0; i < s.size();) {
    const char32_t c = next_char(s, i);
    const bool up = how == "upper" || ((how == "title" || how == "capitalize") && start) ||
                    (how == "swapcase" && is_lower(c));
    if (up && c == 0xdf)  // the sharp s is two letters in capitals
      out += how == "upper" || how == "swapcase" ? "SS" : "Ss";
    else if (!up && how == "casefold" && c == 0xdf)
      out += "ss";
    else
      append_utf8(out, up ? to_upper(c) : to_lower(c));
    start = how == "title" && !is_alphabetic(c);
  }
  return out;
}

bool all_of_class(const std::string& s, std::string_view how) {
  bool cased = false;
  for (size_t i = 0; i < s.size();) {
    const char32_t c = next_char(s, i);
    bool ok = how == "isalpha"   ? is_alphabetic(c)
              : how == "isspace" ? python_space(c)
              : how == "isalnum" ? is_alphabetic(c) || is_numeric(c)
              : how == "isupper" ? !is_lower(c)
              : how == "islower" ? !is_upper(c)
                                 : is_numeric(c);
    cased |= is_upper(c) || is_lower(c);
    if (!ok) return false;
  }
  return how == "isupper" || how == "islower" ? cased : !s.empty();
}

int64_t chars_before(const std::string& s, size_t at) {
  return static_cast<int64_t>(count_chars(std::string_view(s).substr(0, at)));
}

std::string padded(const std::string& s, int64_t width, std::string_view how,
                   const std::string& fill) {
  const int64_t missing = width - static_cast<int64_t>(count_chars(s));
  if (missing <= 0) return s;
  check(missing <= 1 << 20 && count_chars(fill) == 1, "{}: width {} or fill '{}' is out of range",
        how, width, fill);
  auto fills = [&](int64_t n) {
    std::string out;
    for (int64_t i = 0; i < n; ++i) out += fill;
    return out;
  };
  if (how == "ljust") return s + fills(missing);
  if (how == "rjust") return fills(missing) + s;
  if (how == "zfill") {
    const bool sign = s.starts_with('-') || s.starts_with('+');
    return (sign ? s.substr(0, 1) : "") + fills(missing) + s.substr(sign);
  }
  const int64_t left = missing / 2 + (missing & width & 1);
  return fills(left) + s + fills(missing - left);
}

}  // namespace sutor::jinja
