// Filters, `x | NAME(arguments)`, as jinja2.filters defines them. What is not here is an error, not
// a wrong rendering.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <set>

#include "io/jinja_eval.h"

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
  for (size_t i = 0; i < all.size(); ++i)
    out += (i == 0 ? "" : blank || !all[i].empty() ? "\n" + by : "\n") + all[i];
  return out;
}

// Python's round(): the decimal nearest to the binary value, ties to even.
double rounded(double x, int64_t digits) {
  if (!std::isfinite(x) || digits > 300) return x;
  if (digits >= 0) return std::strtod(fmt::format("{:.{}f}", x, digits).c_str(), nullptr);
  double unit = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(x / unit) * unit;
}

// a.b.0 of an element; discarded where there is none.
Json member(const Json& e, const std::string& path) {
  Json at = e;
  for (size_t i = 0; i <= path.size();) {
    size_t dot = std::min(path.find('.', i), path.size());
    std::string key = path.substr(i, dot - i);
    bool number = !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == key.npos;
    if (at.is_object() && at.contains(key))
      at = Json(at[key]);
    else if (number && at.is_array() && std::stoul(key) < at.size())
      at = Json(at[std::stoul(key)]);
    else
      return Json(Json::value_t::discarded);
    i = dot + 1;
  }
  return at;
}

}  // namespace

Value Eval::filter(const Node& n, const Value& v) {
  const auto& f = n.name;
  const Json& j = v.j;
  if (f == "default" || f == "d") {
    const bool use = v.undefined() || (truth(Value(arg(n, 2, "boolean", false))) && !truth(v));
    return use ? Value(arg(n, 1, "default_value", "")) : v;
  }
  if (f == "tojson") return Json(tojson(j, int(whole(n, arg(n, 2, "indent", -1)))));
  if (f == "string" || f == "safe") return Json(text(j));
  if (f == "trim") return Json(trim(text(j)));
  if (f == "upper" || f == "lower" || f == "title" || f == "capitalize")
    return Json(change_case(text(j), f));
  if (f == "replace")
    return Json(replaced(text(j), str(n, arg(n, 1, "old", "")), str(n, arg(n, 2, "new", ""))));
  if (f == "abs")
    return j.is_number_float() ? Json(std::abs(j.get<double>())) : Json(std::abs(whole(n, j)));
  if (f == "int")
    return j.is_string() ? Json(int64_t(std::atoll(text(j).c_str())))
                         : Json(j.is_number() || j.is_boolean() ? j.get<int64_t>() : int64_t{0});
  if (f == "float")
    return j.is_string() ? Json(std::atof(text(j).c_str()))
                         : Json(j.is_number() || j.is_boolean() ? j.get<double>() : 0.0);
  if (f == "round") {
    if (!j.is_number()) bad(n, "'round' needs a number, not {}", j.type_name());
    const int64_t digits = whole(n, arg(n, 1, "precision", 0));
    const std::string how = text(arg(n, 2, "method", "common"));
    if (how == "common" && j.is_number_integer() && digits >= 0) return j;
    if (how == "common" && j.is_number_integer())
      return Json(int64_t(rounded(j.get<double>(), digits)));
    if (how == "common") return Json(rounded(j.get<double>(), digits));
    if (how != "ceil" && how != "floor") bad(n, "round method '{}'", how);
    const double unit = std::pow(10.0, static_cast<double>(digits)), x = j.get<double>() * unit;
    return Json((how == "ceil" ? std::ceil(x) : std::floor(x)) / unit);
  }
  if (f == "indent") {
    Json width = arg(n, 1, "width", 4);
    std::string by = width.is_string() ? width.get<std::string>() : "";
    if (!width.is_string()) {
      const int64_t w = whole(n, width);
      if (w > 1000) bad(n, "indent by {}", w);
      by.assign(size_t(std::max<int64_t>(0, w)), ' ');
    }
    return Json(indented(text(j), by, truth(Value(arg(n, 2, "first", false))),
                         truth(Value(arg(n, 3, "blank", false)))));
  }
  if (f == "escape" || f == "e" || f == "forceescape") return Json(escaped(text(j)));
  if (f == "map" || f == "selectattr" || f == "rejectattr" || f == "select" || f == "reject")
    return choose(n, j);
  return list_filter(n, j);
}

// Filters of lists.
Value Eval::list_filter(const Node& n, const Json& j) {
  const auto& f = n.name;
  if (f == "length" || f == "count") return Json(int64_t(items_of(n, j).size()));
  if (f == "list") return items_of(n, j);
  if (f == "items") return method(n, "items", j);
  if (f == "first" || f == "last") {
    Json a = items_of(n, j);
    return a.empty() ? Value() : Value(f == "first" ? a.front() : a.back());
  }
  if (f == "reverse") {
    Json a = items_of(n, j);
    std::reverse(a.begin(), a.end());
    return a;
  }
  if (f == "join") {
    std::string s, sep = text(arg(n, 1, "d", ""));
    bool first = true;
    for (auto& e : items_of(n, j)) s += (first ? "" : sep) + text(e), first = false;
    return Json(s);
  }
  if (f == "sum") {
    Json total = arg(n, 2, "start", 0), by = arg(n, 1, "attribute", Json());
    Node plus;
    plus.line = n.line, plus.name = "+";
    for (auto& e : items_of(n, j))
      total = binary(plus, total, by.is_null() ? e : member(e, text(by))).j;
    return total;
  }
  if (f == "sort") {
    Json a = items_of(n, j);
    const bool reverse = truth(Value(arg(n, 1, "reverse", false)));
    const bool exact = truth(Value(arg(n, 2, "case_sensitive", false)));
    return sorted(n, a, sort_keys(n, a, arg(n, 3, "attribute", Json()), exact), reverse);
  }
  if (f == "dictsort") {
    if (!j.is_object()) bad(n, "'dictsort' needs a mapping, not {}", j.type_name());
    const std::string by = text(arg(n, 2, "by", "key"));
    if (by != "key" && by != "value") bad(n, "dictsort by '{}', allowed: key, value", by);
    Json pairs = method(n, "items", j).j;
    const bool exact = truth(Value(arg(n, 1, "case_sensitive", false)));
    return sorted(n, pairs, sort_keys(n, pairs, by == "key" ? "0" : "1", exact),
                  truth(Value(arg(n, 3, "reverse", false))));
  }
  if (f == "min" || f == "max" || f == "unique") {
    Json a = items_of(n, j), once = Json::array();
    if (a.empty()) return f == "unique" ? Value(once) : Value();
    const bool exact = truth(Value(arg(n, 1, "case_sensitive", false)));
    std::vector<Json> keys = sort_keys(n, a, arg(n, 2, "attribute", Json()), exact);
    std::set<std::string> seen;
    size_t best = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      if (f == "unique") {
        if (seen.insert(text(keys[i], true)).second) once.push_back(a[i]);
      } else if (f == "min" ? less(n, keys[i], keys[best]) : less(n, keys[best], keys[i])) {
        best = i;
      }
    }
    return f == "unique" ? Value(once) : Value(a[best]);
  }
  if (f == "groupby") {
    Json a = items_of(n, j), by = arg(n, 1, "attribute", Json()), groups = Json::array();
    const bool exact = truth(Value(arg(n, 3, "case_sensitive", false)));
    if (by.is_null()) bad(n, "'groupby' needs an attribute");
    for (auto& e : sorted(n, a, sort_keys(n, a, by, exact), false)) {
      Json one = Json::array({e}), key = sort_keys(n, one, by, exact)[0];
      if (groups.empty() || key != groups.back()[2])
        groups.push_back(Json::array({sort_keys(n, one, by, true)[0], Json::array(), key}));
      groups.back()[1].push_back(e);
    }
    for (auto& g : groups) g.erase(2);
    return groups;
  }
  bad(n, "unknown filter '{}'", f);
}

// What elements are compared by: the attribute (several: "a,b") or the element, letters in lower
// case unless `exact`.
std::vector<Json> Eval::sort_keys(const Node& n, const Json& items, const Json& attribute,
                                  bool exact) {
  std::vector<Json> keys;
  auto folded = [&](const Json& v) {
    return v.is_string() && !exact ? Json(change_case(v.get<std::string>(), "lower")) : v;
  };
  std::string path = attribute.is_null() ? "" : text(attribute);
  for (auto& e : items) {
    step(n);
    if (attribute.is_null()) {
      keys.push_back(folded(e));
      continue;
    }
    Json parts = Json::array();
    for (size_t i = 0; i <= path.size();) {
      size_t comma = std::min(path.find(',', i), path.size());
      Json v = member(e, path.substr(i, comma - i));
      parts.push_back(folded(v));
      i = comma + 1;
    }
    keys.push_back(parts.size() == 1 ? Json(parts[0]) : parts);
  }
  return keys;
}

// Stable, also in reverse.
Json Eval::sorted(const Node& n, const Json& items, const std::vector<Json>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    step(n);
    return reverse ? less(n, keys[b], keys[a]) : less(n, keys[a], keys[b]);
  });
  Json out = Json::array();
  for (size_t i : order) out.push_back(items[i]);
  return out;
}

// map, select, reject, selectattr, rejectattr.
Value Eval::choose(const Node& n, const Json& j) {
  const auto& f = n.name;
  Json o = Json::array();
  const bool attr = f.ends_with("attr");
  const std::string key = text(arg(n, 1, "attribute", ""));
  Node inner;
  inner.line = n.line, inner.op = "call";
  for (auto& e : items_of(n, j)) {
    const Json found = member(e, key);
    const bool has = !found.is_discarded();
    if (f == "map") {
      if (n.kids.size() < 2) {
        o.push_back(has ? found : arg(n, 99, "default", Json()));
      } else {
        inner.name = key;
        o.push_back(filter(inner, Value(e)).j);
      }
      continue;
    }
    const Value what = attr ? (has ? Value(found) : Value()) : Value(e);
    const size_t at = attr ? 2 : 1;
    const bool ok = n.kids.size() > at ? test(n, text(arg(n, at, "", "")), what) : truth(what);
    if (ok == f.starts_with("select")) o.push_back(e);
  }
  return o;
}

}  // namespace sutor::jinja
