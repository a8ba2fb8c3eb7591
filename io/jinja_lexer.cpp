// Template text to tokens. trim_blocks (the newline after a block tag goes) and lstrip_blocks
// (blanks before one go) are on, as transformers sets them; `-` and `+` in a tag overrule them.
// Test: tests/jinja.cpp against jinja2.

#include "io/jinja_lexer.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "engine/error.h"
#include "io/utf8.h"

namespace sutor::jinja {
namespace {

bool name_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// A backslash and what follows it, as Python's unicode-escape; i is at the character after it.
void escape(std::string_view s, size_t& i, std::string& out) {
  constexpr std::string_view kFrom = "ntrabfv\\'\"", kTo = "\n\t\r\a\b\f\v\\'\"";
  const char e = s[i];
  if (size_t k = kFrom.find(e); k != kFrom.npos) {
    out += kTo[k];
    return;
  }
  if (e == '\n') return;
  const size_t digits = e == 'x' ? 2 : e == 'u' ? 4 : e == 'U' ? 8 : 0;
  unsigned c = 0;
  size_t n = 0;
  if (digits > 0) {
    for (; n < digits && i + 1 + n < s.size(); ++n) {
      const char h = s[i + 1 + n];
      if (!std::isxdigit(static_cast<unsigned char>(h))) break;
      c = c * 16 + unsigned(h <= '9' ? h - '0' : (h | 32) - 'a' + 10);
    }
    check(n == digits, "template: a string has \\{} without {} hexadecimal digits", e, digits);
    i += digits;
  } else if (e >= '0' && e <= '7') {
    for (; n < 3 && i + n < s.size() && s[i + n] >= '0' && s[i + n] <= '7'; ++n)
      c = c * 8 + unsigned(s[i + n] - '0');
    i += n - 1;
  } else {
    out += '\\', out += e;
    return;
  }
  const bool lone = (c >= 0xd800 && c < 0xe000) || c > 0x10ffff;
  append_utf8(out, lone ? 0xfffd : char32_t(c));
}

// One token of an expression at s[i]; i moves past it.
Token expression_token(std::string_view s, size_t& i, int& line) {
  const char c = s[i];
  const size_t b = i;
  if (c == '"' || c == '\'') {
    std::string out;
    for (++i; i < s.size() && s[i] != c; ++i) {
      if (s[i] == '\n') ++line;
      if (s[i] != '\\' || i + 1 >= s.size()) {
        out += s[i];
        continue;
      }
      escape(s, ++i, out);
    }
    check(i < s.size(), "template line {}: string without an end", line);
    ++i;
    return {Tok::kString, out, line};
  }
  if (std::isdigit(static_cast<unsigned char>(c))) {
    bool real = false;
    std::string number;
    auto digits = [&] {
      for (; i < s.size() && (std::isdigit(static_cast<unsigned char>(s[i])) || s[i] == '_'); ++i)
        if (s[i] != '_') number += s[i];
    };
    auto digit_at = [&](size_t k) {
      return k < s.size() && std::isdigit(static_cast<unsigned char>(s[k]));
    };
    digits();
    if (i < s.size() && s[i] == '.' && digit_at(i + 1)) {
      real = true, ++i, number += '.';
      digits();
    }
    if (i < s.size() && (s[i] | 32) == 'e') {
      const size_t sign = i + 1 < s.size() && (s[i + 1] == '-' || s[i + 1] == '+');
      if (digit_at(i + 1 + sign)) {
        real = true, number += s.substr(i, 1 + sign), i += 1 + sign;
        digits();
      }
    }
    return {real ? Tok::kFloat : Tok::kInt, number, line};
  }
  if (name_char(c)) {
    while (i < s.size() && name_char(s[i])) ++i;
    return {Tok::kName, std::string(s.substr(b, i - b)), line};
  }
  for (std::string_view op : {"==", "!=", "<=", ">=", "//", "**"})
    if (s.substr(i, 2) == op) return i += 2, Token{Tok::kOp, std::string(op), line};
  check(std::string_view("+-*/%~|.,:()[]{}<>=").find(c) != std::string_view::npos,
        "template line {}: unexpected character '{}'", line, c);
  ++i;
  return {Tok::kOp, std::string(1, c), line};
}

// Newlines of one kind, well-formed UTF-8, and no newline at the end (keep_trailing_newline is
// off).
std::string normal_source(std::string_view source) {
  std::string out;
  for (char c : replace_invalid(source))
    if (c == '\n' && out.ends_with('\r'))
      out.back() = '\n';
    else
      out += c;
  std::replace(out.begin(), out.end(), '\r', '\n');
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

// Past {% raw %} at s[i], which is behind the "{%" and its mark: the text up to {% endraw %}, and
// where the block ends.
struct Raw {
  size_t begin, end, after;
  bool strip_before, strip_after, trims_first;
};
std::optional<Raw> raw_block(std::string_view s, size_t i) {
  auto blanks = [&](size_t k) {
    while (k < s.size() && std::isspace(static_cast<unsigned char>(s[k]))) ++k;
    return k;
  };
  auto tag = [&](size_t k, std::string_view word, bool& strips) -> size_t {  // 0: not that tag
    k = blanks(k);
    if (s.substr(k, word.size()) != word) return 0;
    k = blanks(k + word.size());
    strips = k < s.size() && s[k] == '-';
    k += k < s.size() && (s[k] == '-' || s[k] == '+');
    return s.substr(k, 2) == "%}" ? k + 2 : 0;
  };
  Raw r{};
  if ((r.begin = tag(i, "raw", r.trims_first)) == 0) return std::nullopt;
  for (size_t k = r.begin; (k = s.find("{%", k)) != s.npos; ++k) {
    const bool mark = k + 2 < s.size() && (s[k + 2] == '-' || s[k + 2] == '+');
    r.end = k, r.strip_before = mark && s[k + 2] == '-';
    if ((r.after = tag(k + 2 + mark, "endraw", r.strip_after)) != 0) return r;
  }
  fail("template: raw without endraw");
}

}  // namespace

std::vector<Token> lex(std::string_view source) {
  const std::string normal = normal_source(source);
  const std::string_view s = normal;
  std::vector<Token> out;
  int line = 1;
  bool strip_next = false, trim_next = false;
  for (size_t i = 0; i < s.size();) {
    size_t open = i;
    while ((open = s.find('{', open)) != s.npos)
      if (open + 1 < s.size() && (s[open + 1] == '{' || s[open + 1] == '%' || s[open + 1] == '#'))
        break;
      else
        ++open;
    std::string text(s.substr(i, open == s.npos ? s.npos : open - i));
    const int text_line = line;
    line += int(std::count(text.begin(), text.end(), '\n'));
    const auto space = " \t\r\n\v\f";
    if (strip_next)
      text.erase(0, std::min(text.find_first_not_of(space), text.size()));
    else if (trim_next && text.starts_with('\n'))
      text.erase(0, 1);
    const bool at_line_start = !strip_next && (i == 0 || trim_next);
    const bool consumed_newline = trim_next && i > 0 && s[i] == '\n';
    strip_next = trim_next = false;
    if (open == s.npos) {
      if (!text.empty()) out.push_back({Tok::kText, text, text_line});
      break;
    }
    const char kind = s[open + 1], mark = open + 2 < s.size() ? s[open + 2] : ' ';
    i = open + 2;
    if (mark == '-' || mark == '+') ++i;
    if (mark == '-') {
      text.erase(text.find_last_not_of(space) + 1);
    } else if (mark != '+' && kind != '{') {  // lstrip_blocks
      const size_t tail = text.find_last_not_of(" \t");
      const bool whole = tail == text.npos;
      if (whole ? (at_line_start && (open == text.size() || consumed_newline)) : text[tail] == '\n')
        text.erase(whole ? 0 : tail + 1);
    }
    if (!text.empty()) out.push_back({Tok::kText, text, text_line});
    if (kind == '#') {
      const size_t end = s.find("#}", i);
      check(end != s.npos, "template line {}: comment without an end", line);
      line += int(std::count(s.begin() + long(i), s.begin() + long(end), '\n'));
      strip_next = end > i && s[end - 1] == '-';
      trim_next = end == i || s[end - 1] != '+';
      i = end + 2;
      continue;
    }
    if (auto raw = kind == '%' ? raw_block(s, i) : std::nullopt) {
      std::string body(s.substr(raw->begin, raw->end - raw->begin));
      if (raw->trims_first) body.erase(0, std::min(body.find_first_not_of(space), body.size()));
      if (raw->strip_before)
        body.erase(body.find_last_not_of(space) + 1);
      else if (size_t nl = body.find_last_not_of(" \t"); nl != body.npos && body[nl] == '\n')
        body.erase(nl + 1);
      if (!body.empty()) out.push_back({Tok::kText, body, line});
      line += int(std::count(s.begin() + long(i), s.begin() + long(raw->after), '\n'));
      strip_next = raw->strip_after, trim_next = !strip_next;
      i = raw->after;
      continue;
    }
    const bool block = kind == '%';
    out.push_back({block ? Tok::kBlockBegin : Tok::kVarBegin, "", line});
    int depth = 0;
    for (;;) {
      while (i < s.size() && std::isspace(static_cast<unsigned char>(s[i]))) line += s[i++] == '\n';
      check(i < s.size(), "template line {}: tag without an end", line);
      const std::string_view close = block ? "%}" : "}}";
      if (depth == 0 && s.substr(i, 2) == close) {
        i += 2, trim_next = block;
        break;
      }
      if (depth == 0 && (s[i] == '-' || s[i] == '+') && s.substr(i + 1, 2) == close) {
        strip_next = s[i] == '-', i += 3;
        break;
      }
      Token t = expression_token(s, i, line);
      if (t.kind == Tok::kOp) depth += t.text == "{" || t.text == "(" || t.text == "[";
      if (t.kind == Tok::kOp) depth -= t.text == "}" || t.text == ")" || t.text == "]";
      out.push_back(std::move(t));
    }
    out.push_back({block ? Tok::kBlockEnd : Tok::kVarEnd, "", line});
  }
  out.push_back({Tok::kEnd, "", line});
  return out;
}

}  // namespace sutor::jinja
