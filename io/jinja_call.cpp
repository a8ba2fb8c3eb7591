// What can be called: the functions transformers gives to templates (raise_exception, strftime_now)
// and jinja's own (range, namespace, dict), macros, and Python's methods of strings and mappings.

#include <algorithm>

#include "io/jinja_eval.h"

namespace sutor::jinja {

Value Eval::call(const Node& n) {
  const Node& f = *n.kids[0];
  if (f.op == "attr") {
    Value self = eval(*f.kids[0]);
    if (!self.ns) return method(n, f.name, self.j);
  }
  if (f.op == "name" && !find(f.name)) return function(n, f.name);
  Value v = eval(f);
  if (!v.macro) bad(n, "'{}' cannot be called", f.name);
  Vars local;
  const auto& p = v.macro->kwargs;
  if (n.kids.size() > p.size() + 1)
    bad(n, "macro '{}' takes {} arguments", v.macro->name, p.size());
  for (size_t i = 0; i < p.size(); ++i) {
    local[p[i].first] = i + 1 < n.kids.size() ? eval(*n.kids[i + 1])
                        : p[i].second         ? eval(*p[i].second)
                                              : Value();
    for (auto& [k, e] : n.kwargs)
      if (k == p[i].first) local[k] = eval(*e);
  }
  auto saved = scopes_;  // a macro sees the globals only
  scopes_.resize(1);
  scopes_.push_back(std::move(local));
  std::string s = captured(n, v.macro->body);
  scopes_ = std::move(saved);
  return Json(s);
}

bool Eval::is_function(const std::string& name) {
  return name == "raise_exception" || name == "strftime_now" || name == "range" ||
         name == "namespace" || name == "dict";
}

Value Eval::function(const Node& n, const std::string& f) {
  if (f == "raise_exception") bad(n, "{}", text(arg(n, 1, "message", "")));
  if (f == "strftime_now") {
    char buf[256];
    std::tm tm{};
    gmtime_r(&now_, &tm);
    return Json(std::string(
        buf, std::strftime(buf, sizeof buf, str(n, arg(n, 1, "format", "")).c_str(), &tm)));
  }
  if (f == "range") {
    int64_t a = 0, b = whole(n, arg(n, 1, "", Json())), s = whole(n, arg(n, 3, "", 1));
    if (n.kids.size() > 2) a = b, b = whole(n, arg(n, 2, "", 0));
    if (s == 0) bad(n, "range step 0");
    Json o = Json::array();
    for (int64_t i = a; s > 0 ? i < b : i > b;) {
      if (o.push_back(i), o.size() > 100000) bad(n, "range longer than 100000");
      if (__builtin_add_overflow(i, s, &i)) break;  // past the last whole number, so past b
    }
    return o;
  }
  if (f == "namespace") {
    Value v;
    v.ns = std::make_shared<Vars>();
    for (auto& [k, e] : n.kwargs) (*v.ns)[k] = eval(*e);
    return v;
  }
  if (f == "dict") {
    Json o = Json::object();
    for (auto& [k, e] : n.kwargs) o[k] = eval(*e).j;
    return o;
  }
  bad(n, "unknown function '{}'", f);
}

Value Eval::method(const Node& n, const std::string& m, const Json& self) {
  Json a = arg(n, 1, "", Json());
  if (self.is_object()) {
    if (m == "get") {
      if (self.contains(text(a))) return self[text(a)];
      return arg(n, 2, "default", Json());
    }
    Json o = Json::array();
    if (m == "items" || m == "keys" || m == "values") {
      for (auto& [k, v] : self.items())
        o.push_back(m == "keys" ? Json(k) : m == "values" ? v : Json::array({k, v}));
      return o;
    }
  }
  if (self.is_string()) {
    const auto s = self.get<std::string>();
    if (m == "strip" || m == "lstrip" || m == "rstrip")
      return Json(trim(s, a.is_string() ? a.get<std::string>() : " \t\r\n\v\f",
                       m == "strip"    ? 3
                       : m == "lstrip" ? 1
                                       : 2));
    if (m == "startswith") return Json(s.starts_with(str(n, a)));
    if (m == "endswith") return Json(s.ends_with(str(n, a)));
    if (m == "replace") return Json(replaced(s, str(n, a), str(n, arg(n, 2, "", Json()))));
    if (m == "upper" || m == "lower" || m == "title" || m == "capitalize")
      return Json(change_case(s, m));
    if (m == "find")
      return Json(int64_t(s.find(str(n, a)) == s.npos ? -1 : int64_t(s.find(str(n, a)))));
    if (m == "split") {
      Json o = Json::array();
      size_t i = 0;
      if (a.is_null()) {
        while ((i = s.find_first_not_of(" \t\r\n", i)) != s.npos) {
          const size_t e = std::min(s.find_first_of(" \t\r\n", i), s.size());
          o.push_back(s.substr(i, e - i)), i = e;
        }
        return o;
      }
      const auto sep = str(n, a);
      if (sep.empty()) bad(n, "empty separator");
      int64_t left = whole(n, arg(n, 2, "maxsplit", -1));
      for (size_t p; left-- != 0 && (p = s.find(sep, i)) != s.npos; i = p + sep.size())
        o.push_back(s.substr(i, p - i));
      o.push_back(s.substr(i));
      return o;
    }
  }
  bad(n, "{} has no method '{}'", self.type_name(), m);
}

}  // namespace sutor::jinja
