// Truth, printing and string helpers as Python has them. Numbers print as Python prints them (1.0,
// not 1); nothing here knows the tree.

#include "io/jinja_value.h"

#include <algorithm>
#include <cctype>

#include "engine/error.h"

namespace sutor::jinja {

bool truth(const Value& v) {
  const Json& j = v.j;
  if (j.is_discarded()) return v.ns || v.macro;
  if (j.is_boolean()) return j.get<bool>();
  if (j.is_number()) return j.get<double>() != 0;
  if (j.is_string()) return !j.get_ref<const std::string&>().empty();
  return !j.empty();
}

namespace {

std::string real(double d) {
  auto s = fmt::format("{}", d);
  return s.find_first_of(".en") == s.npos ? s + ".0" : s;
}

}  // namespace

std::string text(const Json& j, bool quoted) {
  if (j.is_discarded()) return "";
  if (j.is_null()) return "None";
  if (j.is_boolean()) return j.get<bool>() ? "True" : "False";
  if (j.is_number_float()) return real(j.get<double>());
  if (j.is_number()) return j.dump();
  if (j.is_string()) {
    const auto& s = j.get_ref<const std::string&>();
    if (!quoted) return s;
    const char q = s.find('\'') != s.npos && s.find('"') == s.npos ? '"' : '\'';
    std::string out(1, q);
    for (char c : s) {
      if (c == '\n')
        out += "\\n";
      else if (c == '\t')
        out += "\\t";
      else if (c == '\r')
        out += "\\r";
      else if (c == '\\' || c == q)
        out += '\\', out += c;
      else
        out += c;
    }
    return out + q;
  }
  std::string out = j.is_array() ? "[" : "{";
  bool first = true;
  for (auto& [k, v] : j.items()) {
    if (!first) out += ", ";
    first = false;
    if (j.is_object()) out += text(Json(k), true) + ": ";
    out += text(v, true);
  }
  return out + (j.is_array() ? "]" : "}");
}

std::string tojson(const Json& j, int indent, int level) {
  if (j.is_number_float()) return real(j.get<double>());
  if (!j.is_structured() || j.empty()) return j.dump();
  std::string out = j.is_array() ? "[" : "{";
  auto newline = [&](int n) { return "\n" + std::string(size_t(n * indent), ' '); };
  bool first = true;
  for (auto& [k, v] : j.items()) {
    if (!first) out += indent >= 0 ? "," : ", ";
    first = false;
    if (indent >= 0) out += newline(level + 1);
    if (j.is_object()) out += Json(k).dump() + ": ";
    out += tojson(v, indent, level + 1);
  }
  if (indent >= 0) out += newline(level);
  return out + (j.is_array() ? "]" : "}");
}

std::string trim(const std::string& s, const std::string& set, int sides) {
  const size_t b = sides & 1 ? s.find_first_not_of(set) : 0;
  if (b == s.npos) return "";
  const size_t e = sides & 2 ? s.find_last_not_of(set) : s.size() - 1;
  return e == s.npos ? "" : s.substr(b, e + 1 - b);
}

std::string replaced(const std::string& s, const std::string& a, const std::string& b) {
  if (a.empty()) return s;
  std::string out;
  size_t i = 0;
  for (size_t p; (p = s.find(a, i)) != s.npos; i = p + a.size()) out += s.substr(i, p - i) + b;
  return out + s.substr(i);
}

std::vector<std::string> chars(const std::string& s) {
  std::vector<std::string> out;
  for (char c : s)
    if ((uint8_t(c) & 0xc0) == 0x80 && !out.empty())
      out.back() += c;
    else
      out.emplace_back(1, c);
  return out;
}

std::vector<std::string> lines(const std::string& s) {
  std::vector<std::string> out;
  size_t begin = 0;
  for (size_t i = 0; i < s.size();) {
    std::string_view at = std::string_view(s).substr(i);
    size_t n = at.starts_with("\r\n") ? 2
               : at[0] == '\n' || at[0] == '\r' || at[0] == '\v' || at[0] == '\f' ||
                       (at[0] >= 0x1c && at[0] <= 0x1e)
                   ? 1
               : at.starts_with("\xC2\x85")                                       ? 2
               : at.starts_with("\xE2\x80\xA8") || at.starts_with("\xE2\x80\xA9") ? 3
                                                                                  : 0;
    if (n > 0) {
      out.push_back(s.substr(begin, i - begin));
      begin = i + n;
    }
    i += n > 0 ? n : 1;
  }
  if (begin < s.size()) out.push_back(s.substr(begin));
  return out;
}

std::string change_case(std::string s, const std::string& how) {
  bool start = true;
  for (char& c : s) {
    const bool letter = std::isalpha(static_cast<unsigned char>(c));
    const bool up = how == "upper" || (how != "lower" && start);
    c = char(up ? std::toupper(static_cast<unsigned char>(c))
                : std::tolower(static_cast<unsigned char>(c)));
    start = how == "title" && !letter;
  }
  return s;
}

}  // namespace sutor::jinja
