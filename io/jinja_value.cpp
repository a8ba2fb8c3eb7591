// Truth, equality, printing and json.dumps as Python has them. Numbers print as Python prints them
// (1.0, not 1); nothing here knows the tree.

#include "io/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "io/utf8.h"

namespace sutor::jinja {

const Json& Value::j() const {
  static const Json none(Json::value_t::discarded);
  return data_ ? *data_ : none;
}

Value Arguments::get(size_t i, std::string_view name) {
  if (i < kNamedOnly) read_ = std::max(read_, i + 1);
  names_read_.emplace_back(name);
  if (i < at.size()) return at[i];
  for (auto& [k, v] : named)
    if (k == name) return v;
  return {};
}

bool Arguments::has(size_t i, std::string_view name) const {
  if (i < at.size()) return true;
  return std::any_of(named.begin(), named.end(), [&](auto& kv) { return kv.first == name; });
}

std::string Arguments::left_over() const {
  if (at.size() > read_) return fmt::format("number {}", read_ + 1);
  for (auto& [k, v] : named)
    if (std::find(names_read_.begin(), names_read_.end(), k) == names_read_.end()) return k;
  return "";
}

bool is_number(const Json& j) { return j.is_number() || j.is_boolean(); }
double as_double(const Json& j) { return j.is_boolean() ? j.get<bool>() : j.get<double>(); }

bool truth(const Value& v) {
  const Json& j = v.j();
  if (j.is_discarded()) return v.ns || v.callable();
  if (j.is_boolean()) return j.get<bool>();
  if (j.is_number()) return j.get<double>() != 0;
  if (j.is_string()) return !j.get_ref<const std::string&>().empty();
  return !j.empty();
}

bool equal(const Json& a, const Json& b) {
  if (is_number(a) && is_number(b)) {
    const Json x = a.is_boolean() ? Json(int(a.get<bool>())) : a;
    return x == (b.is_boolean() ? Json(int(b.get<bool>())) : b);
  }
  if (a.is_discarded() || b.is_discarded()) return a.is_discarded() && b.is_discarded();
  if (a.type() != b.type()) return false;
  if (!a.is_structured()) return a == b;
  if (a.size() != b.size()) return false;
  if (a.is_array()) {
    for (size_t i = 0; i < a.size(); ++i)
      if (!equal(a[i], b[i])) return false;
    return true;
  }
  for (auto& [k, v] : a.items()) {
    auto it = b.find(k);
    if (it == b.end() || !equal(v, *it)) return false;
  }
  return true;
}

std::string real(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  auto s = fmt::format("{}", d);
  return s.find_first_of(".e") == s.npos ? s + ".0" : s;
}

std::string quoted(const std::string& s) {
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
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + q;
}

std::string text(const Json& j, bool in_container) {
  if (j.is_discarded()) return in_container ? "Undefined" : "";
  if (j.is_null()) return "None";
  if (j.is_boolean()) return j.get<bool>() ? "True" : "False";
  if (j.is_number_float()) return real(j.get<double>());
  if (j.is_number()) return j.dump();
  if (j.is_string()) {
    const auto& s = j.get_ref<const std::string&>();
    return in_container ? quoted(s) : s;
  }
  std::string out = j.is_array() ? "[" : "{";
  bool first = true;
  for (auto& [k, v] : j.items()) {
    if (!first) out += ", ";
    first = false;
    if (j.is_object()) out += quoted(k) + ": ";
    out += text(v, true);
  }
  return out + (j.is_array() ? "]" : "}");
}

static std::string json_string(const std::string& s, bool ascii) {
  std::string raw = Json(s).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (!ascii) return raw;
  std::string out;
  for (size_t i = 0; i < raw.size();) {
    char32_t c = next_char(raw, i);
    if (c < 0x7f)
      out += static_cast<char>(c);
    else if (c < 0x10000)
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    else
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((c - 0x10000) >> 10),
                         0xdc00 + ((c - 0x10000) & 0x3ff));
  }
  return out;
}

std::string tojson(const Json& j, const JsonStyle& style, int level) {
  check(!j.is_discarded(), "an undefined value has no JSON form");
  if (j.is_string()) return json_string(j.get_ref<const std::string&>(), style.ascii);
  if (j.is_number_float()) {
    double d = j.get<double>();
    return std::isnan(d) ? "NaN" : std::isinf(d) ? (d > 0 ? "Infinity" : "-Infinity") : real(d);
  }
  if (j.is_array() && j.empty()) return "[]";
  if (j.is_object() && j.empty()) return "{}";
  if (!j.is_structured()) return j.dump();
  auto newline = [&](int n) {
    std::string s = "\n";
    for (int i = 0; i < n; ++i) s += style.indent;
    return s;
  };
  std::vector<std::pair<std::string, const Json*>> items;
  for (auto& [k, v] : j.items()) items.emplace_back(k, &v);
  if (style.sort_keys && j.is_object())
    std::stable_sort(items.begin(), items.end(),
                     [](auto& a, auto& b) { return a.first < b.first; });
  std::string out = j.is_array() ? "[" : "{";
  bool first = true;
  for (auto& [k, v] : items) {
    if (!first) out += style.item;
    first = false;
    if (style.pretty) out += newline(level + 1);
    if (j.is_object()) out += json_string(k, style.ascii) + style.key;
    out += tojson(*v, style, level + 1);
  }
  if (style.pretty) out += newline(level);
  return out + (j.is_array() ? "]" : "}");
}

int64_t weight(const Json& j, int64_t limit, int depth) {
  check(depth <= 200, "a template's value is nested deeper than 200");
  if (j.is_string()) return 1 + static_cast<int64_t>(j.get_ref<const std::string&>().size()) / 64;
  int64_t n = 1;
  if (j.is_structured())
    for (auto it = j.begin(); it != j.end() && n <= limit; ++it)
      n += weight(*it, limit - n, depth + 1);
  return n;
}

}  // namespace sutor::jinja
