// Filters, `x | NAME(arguments)`, as jinja2.filters defines them: those of texts and numbers here,
// those of lists in jinja_lists.cpp. What is not there is an error, not a wrong rendering.

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "io/jinja_eval.h"
#include "io/utf8.h"

namespace sutor::jinja {
namespace {

std::string escaped(const std::string& s) {  // as markupsafe
  std::string out;
  for (char c : s)
    out += c == '&'    ? "&amp;"
           : c == '<'  ? "&lt;"
           : c == '>'  ? "&gt;"
           : c == '"'  ? "&#34;"
           : c == '\'' ? "&#39;"
                       : std::string(1, c);
  return out;
}

std::string indented(const std::string& s, const std::string& by, bool first, bool blank) {
  std::string out = first ? by : "";
  std::vector<std::string> all = lines(s + "\n");
  for (size_t i = 0; i < all.size(); ++i) {
    out += (i == 0 ? "" : blank || !all[i].empty() ? "\n" + by : "\n") + all[i];
    check(out.size() <= kMaxOutput, "indent: more than {} bytes", kMaxOutput);
  }
  return out;
}

// Python's round(): the decimal nearest to the binary value, ties to even.
double rounded(double x, int64_t digits) {
  if (!std::isfinite(x) || digits > 300) return x;
  if (digits < -300) return 0;
  if (digits >= 0) return std::strtod(fmt::format("{:.{}f}", x, digits).c_str(), nullptr);
  double unit = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(x / unit) * unit;
}

// A whole number of the double when it has one.
Json whole_number(double d, const Json& otherwise) {
  return std::isfinite(d) && std::abs(d) < 9e15 ? Json(static_cast<int64_t>(d)) : otherwise;
}

// int() and float() of a text; discarded: neither.
Json parsed(const std::string& text, bool real, int base) {
  const std::string s = trim(text);
  char* end = nullptr;
  errno = 0;
  if (s.empty() || s.find('\0') != s.npos) return Json(Json::value_t::discarded);
  if (real) {
    const double d = std::strtod(s.c_str(), &end);
    return *end == '\0' && s.find_first_of("xXpP") == s.npos ? Json(d)
                                                             : Json(Json::value_t::discarded);
  }
  const long long i = std::strtoll(s.c_str(), &end, base);
  return *end == '\0' && errno == 0 ? Json(static_cast<int64_t>(i))
                                    : Json(Json::value_t::discarded);
}

}  // namespace

Value Eval::filter(const Node& n, const std::string& f, const Value& v, Arguments& a) {
  charge(n, v.j());
  Value result;
  if (!text_filter(n, f, v, a, result) && !list_filter(n, f, v, a, result))
    bad(n, "unknown filter '{}'", f);
  all_used(n, f, a);
  if (result.j().is_string())
    step(n, static_cast<int64_t>(result.j().get_ref<const std::string&>().size()) / 64);
  return result;
}

bool Eval::text_filter(const Node& n, const std::string& f, const Value& v, Arguments& a,
                       Value& out) {
  const Json& j = v.j();
  auto flag = [&](size_t i, const char* name, bool otherwise) {
    const Value x = a.get(i, name);
    return x.undefined() ? otherwise : truth(x);
  };
  auto text_of = [&](size_t i, const char* name) {
    const Value x = a.get(i, name);
    if (!x.j().is_string()) bad(n, "'{}' needs a string, not {}", f, x.j().type_name());
    return x.j().get<std::string>();
  };
  if (f == "default" || f == "d") {
    const Value otherwise = a.get(0, "default_value");
    const bool falsy = flag(1, "boolean", false);
    const bool use = v.undefined() || (falsy && !truth(v));
    out = !use ? v : a.has(0, "default_value") ? otherwise : Value(Json(""));
  } else if (f == "tojson") {
    JsonStyle style;
    style.ascii = flag(0, "ensure_ascii", false);
    const Value indent = a.get(1, "indent"), separators = a.get(2, "separators");
    style.sort_keys = flag(3, "sort_keys", false);
    if (indent.j().is_string()) {
      style.pretty = true, style.indent = str(n, indent);
    } else if (!indent.undefined() && !indent.j().is_null()) {
      const int64_t width = whole(n, indent);
      if (width > 100) bad(n, "tojson indent {}", width);
      style.pretty = true;
      style.indent.assign(size_t(std::max<int64_t>(0, width)), ' ');
    }
    if (style.pretty) style.item = ",";
    if (const Json& s = separators.j();
        s.is_array() && s.size() == 2 && s[0].is_string() && s[1].is_string())
      style.item = s[0].get<std::string>(), style.key = s[1].get<std::string>();
    else if (!separators.undefined() && !s.is_null())
      bad(n, "tojson: separators are two strings");
    if (j.is_discarded()) bad(n, "'tojson' of an undefined value");
    out = Json(tojson(j, style));
  } else if (f == "string" || f == "safe") {
    out = Json(text(j));
  } else if (f == "trim") {
    const Value set = a.get(0, "chars");
    const std::string s = text(j);
    out = Json(set.j().is_string() ? trim(s, kBoth, &str(n, set)) : trim(s));
  } else if (f == "upper" || f == "lower" || f == "capitalize") {
    out = Json(change_case(text(j), f));
  } else if (f == "title") {  // words begin after white space, - and brackets
    std::string s = text(j), o;
    bool start = true;
    for (const std::string& c : chars(s)) {
      size_t i = 0;
      const char32_t u = next_char(c, i);
      o += change_case(c, start ? "upper" : "lower");
      start = python_space(u) || c.find_first_of("-({[<") != c.npos;
    }
    out = Json(o);
  } else if (f == "replace") {
    const std::string old = text_of(0, "old"), with = text_of(1, "new");
    out = Json(replaced(text(j), old, with, whole_or(n, a.get(2, "count"), -1)));
  } else if (f == "center") {
    out = Json(padded(text(j), whole_or(n, a.get(0, "width"), 80), "center", " "));
  } else if (f == "wordcount") {
    int64_t words = 0;
    bool inside = false;
    for (const std::string& c : chars(text(j))) {
      const bool word = c == "_" || all_of_class(c, "isalnum");
      words += word && !inside;
      inside = word;
    }
    out = Json(words);
  } else if (f == "truncate") {
    const int64_t length = whole_or(n, a.get(0, "length"), 255);
    const bool kill = flag(1, "killwords", false);
    const std::string end = a.has(2, "end") ? text_of(2, "end") : "...";
    a.get(2, "end");
    const int64_t leeway = whole_or(n, a.get(3, "leeway"), 5);
    const std::string s = text(j);
    const std::vector<std::string> all = chars(s);
    const int64_t room = length - chars_before(end, end.size());
    if (room < 0) bad(n, "truncate: length {} has no room for '{}'", length, end);
    if (int64_t(all.size()) <= length + leeway) return out = Json(s), true;
    std::string o;
    for (int64_t i = 0; i < room; ++i) o += all[size_t(i)];
    if (size_t space = o.rfind(' '); !kill && space != o.npos) o.resize(space);
    out = Json(o + end);
  } else if (f == "format") {
    Json values = Json::array();
    for (size_t i = 0; i < a.at.size(); ++i) values.push_back(a.get(i, "").j());
    out = Json(formatted(n, str(n, v), values));
  } else if (f == "abs") {
    if (!is_number(j)) bad(n, "'abs' needs a number, not {}", j.type_name());
    out = j.is_number_float() ? Json(std::abs(j.get<double>())) : Json(std::abs(whole(n, v)));
  } else if ((f == "int" || f == "float" || f == "indent") && v.undefined()) {
    bad(n, "'{}' of an undefined value", f);
  } else if (f == "int") {
    Json otherwise = a.has(0, "default") ? a.get(0, "default").j() : Json(0);
    a.get(0, "default");
    const int64_t base = whole_or(n, a.get(1, "base"), 10);
    if (base != 0 && (base < 2 || base > 36)) bad(n, "int: base {}", base);
    if (j.is_string()) {
      Json i = parsed(text(j), false, int(base));
      if (i.is_discarded()) {
        const Json d = parsed(text(j), true, 10);
        i = d.is_discarded() ? otherwise : whole_number(d.get<double>(), otherwise);
      }
      out = i;
    } else {
      out = !is_number(j)         ? otherwise
            : j.is_number_float() ? whole_number(j.get<double>(), otherwise)
                                  : Json(whole(n, v));
    }
  } else if (f == "float") {
    Json otherwise = a.has(0, "default") ? a.get(0, "default").j() : Json(0.0);
    a.get(0, "default");
    Json d = j.is_string()  ? parsed(text(j), true, 10)
             : is_number(j) ? Json(as_double(j))
                            : Json(Json::value_t::discarded);
    out = d.is_discarded() ? otherwise : d;
  } else if (f == "round") {
    if (!is_number(j)) bad(n, "'round' needs a number, not {}", j.type_name());
    const int64_t digits = whole_or(n, a.get(0, "precision"), 0);
    const Value method = a.get(1, "method");
    const std::string how = method.undefined() ? "common" : text(method.j());
    const double x = as_double(j);
    if (how == "common" && !j.is_number_float())
      out = digits >= 0 ? Json(whole(n, v)) : whole_number(rounded(x, digits), v.j());
    else if (how == "common")
      out = Json(rounded(x, digits));
    else if (how != "ceil" && how != "floor")
      bad(n, "round method '{}'", how);
    else {
      const double unit = std::pow(10.0, static_cast<double>(digits));
      out = Json((how == "ceil" ? std::ceil(x * unit) : std::floor(x * unit)) / unit);
    }
  } else if (f == "indent") {
    const Value width = a.get(0, "width");
    std::string by = width.j().is_string() ? str(n, width) : "";
    if (!width.j().is_string()) {
      const int64_t w = whole_or(n, width, 4);
      if (w > 1000) bad(n, "indent by {}", w);
      by.assign(size_t(std::max<int64_t>(0, w)), ' ');
    }
    const bool first = flag(1, "first", false), blank = flag(2, "blank", false);
    out = Json(indented(text(j), by, first, blank));
  } else if (f == "escape" || f == "e" || f == "forceescape") {
    out = Json(escaped(text(j)));
  } else {
    return false;
  }
  return true;
}

}  // namespace sutor::jinja
