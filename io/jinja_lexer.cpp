// Template text to tokens. trim_blocks (the newline after a block tag goes) and lstrip_blocks
// (blanks before one go) are on, as transformers sets them; `-` and `+` in a tag overrule them.
// Test: tests/jinja.cpp against jinja2.

#include "io/jinja_lexer.h"

#include <algorithm>
#include <cctype>

#include "engine/error.h"

namespace sutor::jinja {
namespace {

bool name_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

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
      const char e = s[++i];
      if (e == 'n')
        out += '\n';
      else if (e == 't')
        out += '\t';
      else if (e == 'r')
        out += '\r';
      else if (e == '\\' || e == '\'' || e == '"')
        out += e;
      else if (e != '\n')
        out += '\\', out += e;
    }
    check(i < s.size(), "template line {}: string without an end", line);
    ++i;
    return {Tok::kString, out, line};
  }
  if (std::isdigit(static_cast<unsigned char>(c))) {
    bool real = false;
    while (i < s.size() && (std::isdigit(static_cast<unsigned char>(s[i])) || s[i] == '_')) ++i;
    if (i + 1 < s.size() && s[i] == '.' && std::isdigit(static_cast<unsigned char>(s[i + 1]))) {
      real = true;
      for (++i; i < s.size() && std::isdigit(static_cast<unsigned char>(s[i]));) ++i;
    }
    return {real ? Tok::kFloat : Tok::kInt, std::string(s.substr(b, i - b)), line};
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

}  // namespace

std::vector<Token> lex(std::string_view s) {
  if (s.ends_with('\n')) s.remove_suffix(1);  // keep_trailing_newline is off
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
      trim_next = true;
      i = end + 2;
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
