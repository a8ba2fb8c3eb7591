// UTF-8 and character classes (io/utf8.h). Test: through tests/tokenizer.cpp and tests/jinja.cpp.

#include "io/utf8.h"

#include <utf8proc.h>

namespace sutor {

char32_t next_char(std::string_view s, size_t& i) {
  unsigned char a = s[i++];
  if (a < 0x80) return a;
  int n = a >= 0xF0 ? 3 : a >= 0xE0 ? 2 : 1;
  char32_t c = a & (0x3F >> n);
  while (n-- > 0 && i < s.size()) c = c << 6 | (s[i++] & 0x3F);
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  utf8proc_uint8_t b[4];
  auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), b);
  out.append(reinterpret_cast<char*>(b), n);
}

static utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}
bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}
bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c > 32 && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') ||
           (c > 'z' && c < 127);
  auto k = category(c);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}
bool is_word(char32_t c) {
  auto k = category(c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC;
}

bool is_alphabetic(char32_t c) {
  auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }
char32_t to_upper(char32_t c) { return utf8proc_toupper(static_cast<utf8proc_int32_t>(c)); }
char32_t to_lower(char32_t c) { return utf8proc_tolower(static_cast<utf8proc_int32_t>(c)); }

size_t char_before(std::string_view s, size_t i) {
  while (i > 0 && (s[--i] & 0xC0) == 0x80) {
  }
  return i;
}
size_t count_chars(std::string_view s) {
  size_t n = 0;
  for (char c : s) n += (c & 0xC0) != 0x80;
  return n;
}

// Bytes of the maximal subpart at s[i]; `whole`: it is a character.
static size_t subpart(std::string_view s, size_t i, bool& whole) {
  const unsigned char a = s[i];
  const size_t n = a < 0x80                 ? 1
                   : a >= 0xC2 && a <= 0xDF ? 2
                   : a >= 0xE0 && a <= 0xEF ? 3
                   : a >= 0xF0 && a <= 0xF4 ? 4
                                            : 0;
  // The second byte has a narrower range after E0, ED, F0 and F4 (no overlong forms, surrogates,
  // > 10FFFF).
  unsigned lo = a == 0xE0   ? 0xA0
                : a == 0xF0 ? 0x90
                            : 0x80,
           hi = a == 0xED   ? 0x9F
                : a == 0xF4 ? 0x8F
                            : 0xBF;
  size_t k = 1;
  while (k < n && i + k < s.size()) {
    const unsigned char b = s[i + k];
    if (b < lo || b > hi) break;
    lo = 0x80, hi = 0xBF, ++k;
  }
  whole = k == n;
  return k;
}

bool is_utf8(std::string_view s) {
  bool whole = true;
  for (size_t i = 0; i < s.size() && whole;) i += subpart(s, i, whole);
  return whole;
}

std::string replace_invalid(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size();) {
    size_t j = i;
    while (j < s.size() && static_cast<unsigned char>(s[j]) < 0x80) ++j;
    out.append(s, i, j - i);
    if ((i = j) == s.size()) break;
    bool whole = false;
    const size_t n = subpart(s, i, whole);
    out += whole ? s.substr(i, n) : std::string_view("\xEF\xBF\xBD");
    i += n;
  }
  return out;
}

}  // namespace sutor
