// Python's methods of strings, mappings, lists and of the loop. What would change a value
// (list.append, dict.update) is missing: transformers' sandbox refuses it too.

#include <algorithm>

#include "io/jinja_eval.h"
#include "io/utf8.h"

namespace sutor::jinja {

Value Eval::method(const Node& n, const std::string& m, const Value& self, Arguments& a) {
  const Json& j = self.j();
  charge(n, j);
  if (self.ns) {
    auto index = self.ns->find("index0");
    if (m == "cycle" && index != self.ns->end()) {
      if (a.at.empty()) bad(n, "cycle of nothing");
      for (size_t i = 0; i < a.at.size(); ++i) a.get(i, "");
      return a.at[static_cast<size_t>(whole(n, index->second)) % a.at.size()];
    }
    if (m == "changed" && index != self.ns->end()) {
      Json now = Json::array();
      for (size_t i = 0; i < a.at.size(); ++i) now.push_back(a.get(i, "").j());
      auto was = self.ns->find("(changed)");
      const bool changed = was == self.ns->end() || !equal(was->second.j(), now);
      (*self.ns)["(changed)"] = Value(now);
      return Json(changed);
    }
  }
  if (j.is_string()) return string_method(n, m, j.get_ref<const std::string&>(), a);
  if (j.is_object()) {
    if (m == "get") {
      const Value key = a.get(0, "key"), otherwise = a.get(1, "default");
      if (key.j().is_string())
        if (auto it = j.find(key.j().get_ref<const std::string&>()); it != j.end())
          return Value(self, *it);
      return a.has(1, "default") ? otherwise : Value(Json());
    }
    if (m == "copy") return self;
    if (m == "items" || m == "keys" || m == "values") {
      Json o = Json::array();
      for (auto& [k, v] : j.items())
        o.push_back(m == "keys" ? Json(k) : m == "values" ? v : Json::array({k, v}));
      return o;
    }
  }
  if (j.is_array()) {
    if (m == "copy") return self;
    if (m == "index" || m == "count") {
      const Value what = a.get(0, "value");
      int64_t found = 0;
      for (size_t i = 0; i < j.size(); ++i)
        if (equal(j[i], what.j())) {
          if (m == "index") return Json(int64_t(i));
          ++found;
        }
      if (m == "index") bad(n, "index: no such element");
      return Json(found);
    }
  }
  bad(n, "{} has no method '{}'", self.ns ? "namespace" : j.type_name(), m);
}

Value Eval::string_method(const Node& n, const std::string& m, const std::string& s, Arguments& a) {
  auto text_at = [&](size_t i, const char* name) -> std::string {
    const Value v = a.get(i, name);
    if (!v.j().is_string()) bad(n, "{} needs a string, not {}", m, v.j().type_name());
    return v.j().get<std::string>();
  };
  auto set_or_none = [&](size_t i, const char* name, std::string& out) {
    const Value v = a.get(i, name);
    if (v.undefined() || v.j().is_null()) return false;
    return out = text_at(i, name), true;
  };
  if (m == "strip" || m == "lstrip" || m == "rstrip") {
    std::string set;
    const bool given = set_or_none(0, "chars", set);
    const int sides = m == "strip" ? kBoth : m == "lstrip" ? kLeft : kRight;
    return Json(trim(s, sides, given ? &set : nullptr));
  }
  if (m == "startswith" || m == "endswith") {
    const Value v = a.get(0, "prefix");
    auto one = [&](const Json& j) {
      if (!j.is_string()) bad(n, "{} needs a string, not {}", m, j.type_name());
      const std::string& x = j.get_ref<const std::string&>();
      return m == "startswith" ? s.starts_with(x) : s.ends_with(x);
    };
    if (!v.j().is_array()) return Json(one(v.j()));
    return Json(std::any_of(v.j().begin(), v.j().end(), one));
  }
  if (m == "split" || m == "rsplit") {
    std::string sep;
    const bool given = set_or_none(0, "sep", sep);
    const int64_t max = whole_or(n, a.get(1, "maxsplit"), -1);
    return list_of(n, split(s, given ? &sep : nullptr, max, m == "rsplit"));
  }
  if (m == "splitlines") return list_of(n, lines(s, truth(a.get(0, "keepends"))));
  if (m == "partition" || m == "rpartition") {
    const std::string sep = text_at(0, "sep");
    if (sep.empty()) bad(n, "empty separator");
    const size_t p = m == "partition" ? s.find(sep) : s.rfind(sep);
    if (p == s.npos) return m == "partition" ? Json::array({s, "", ""}) : Json::array({"", "", s});
    return Json::array({s.substr(0, p), sep, s.substr(p + sep.size())});
  }
  if (m == "replace") {
    const std::string old = text_at(0, "old"), with = text_at(1, "new");
    return Json(replaced(s, old, with, whole_or(n, a.get(2, "count"), -1)));
  }
  if (m == "removeprefix" || m == "removesuffix") {
    const std::string x = text_at(0, "prefix");
    if (m == "removeprefix") return Json(s.starts_with(x) ? s.substr(x.size()) : s);
    return Json(s.ends_with(x) ? s.substr(0, s.size() - x.size()) : s);
  }
  for (const char* how : {"upper", "lower", "title", "capitalize", "swapcase", "casefold"})
    if (m == how) return Json(change_case(s, m));
  for (const char* how :
       {"isalpha", "isdigit", "isnumeric", "isdecimal", "isalnum", "isspace", "isupper", "islower"})
    if (m == how) return Json(all_of_class(s, m));
  if (m == "find" || m == "rfind" || m == "index" || m == "rindex") {
    const std::string x = text_at(0, "sub");
    const size_t p = m[0] == 'r' ? s.rfind(x) : s.find(x);
    if (p == s.npos && m.ends_with("index")) bad(n, "substring not found");
    return Json(p == s.npos ? int64_t{-1} : chars_before(s, p));
  }
  if (m == "count") {
    const std::string x = text_at(0, "sub");
    int64_t found = x.empty() ? chars_before(s, s.size()) + 1 : 0;
    for (size_t i = 0; !x.empty() && (i = s.find(x, i)) != s.npos; i += x.size()) ++found;
    return Json(found);
  }
  if (m == "join") {
    const Value list = items_of(n, a.get(0, "iterable"));
    std::string o;
    for (size_t i = 0; i < list.j().size(); ++i) {
      if (!list.j()[i].is_string()) bad(n, "join needs strings, not {}", list.j()[i].type_name());
      o += (i ? s : "") + list.j()[i].get_ref<const std::string&>();
      if (o.size() > kMaxOutput) bad(n, "string too long");
    }
    return Json(std::move(o));
  }
  for (const char* how : {"ljust", "rjust", "center", "zfill"})
    if (m == how) {
      const int64_t width = whole(n, a.get(0, "width"));
      std::string fill = m == "zfill" ? "0" : " ";
      if (m != "zfill") set_or_none(1, "fillchar", fill);
      return Json(padded(s, width, m, fill));
    }
  if (m == "format") {  // {} {0} {name}, without format specifications
    std::string o;
    size_t next = 0;
    for (size_t i = 0; i < s.size(); ++i) {
      if ((s[i] == '{' || s[i] == '}') && i + 1 < s.size() && s[i + 1] == s[i]) {
        o += s[i++];
      } else if (s[i] == '{') {
        const size_t e = s.find('}', i);
        if (e == s.npos) bad(n, "format: '{{' without an end");
        const std::string key = s.substr(i + 1, e - i - 1);
        const bool number =
            !key.empty() && key.size() < 4 && key.find_first_not_of("0123456789") == key.npos;
        const size_t at = key.empty() ? next++ : number ? std::stoul(key) : Arguments::kNamedOnly;
        if (!a.has(at, key)) bad(n, "format: no argument for '{{{}}}'", key);
        o += text(a.get(at, key).j());
        i = e;
      } else {
        o += s[i];
      }
      if (o.size() > kMaxOutput) bad(n, "string too long");
    }
    return Json(std::move(o));
  }
  bad(n, "string has no method '{}'", m);
}

// "..." % values: %s %d %i %r %f %.Nf %% with flags and widths of printf. A list gives several
// values, a mapping is for %(name)s.
std::string Eval::formatted(const Node& n, const std::string& s, const Json& values) {
  std::string o;
  size_t next = 0;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '%') {
      o += s[i];
      continue;
    }
    if (++i < s.size() && s[i] == '%') {
      o += '%';
      continue;
    }
    Json v(Json::value_t::discarded);
    if (i < s.size() && s[i] == '(') {
      const size_t e = std::min(s.find(')', i), s.size() - 1);
      const std::string key = s.substr(i + 1, e - i - 1);
      if (values.is_object() && values.contains(key)) v = values[key];
      i = e + 1;
    } else if (values.is_array()) {
      if (next < values.size()) v = values[next];
      ++next;
    } else if (next++ == 0) {
      v = values;
    }
    const size_t b = i;
    while (i < s.size() && std::string_view("-+ #0123456789.").find(s[i]) != std::string_view::npos)
      ++i;
    const std::string flags = s.substr(b, i - b);
    const char kind = i < s.size() ? s[i] : ' ';
    if (v.is_discarded()) bad(n, "'%': a value is missing");
    if (flags.size() > 8) bad(n, "'%': format '{}'", flags);
    std::string one;
    if (kind == 's' || kind == 'r') {
      one = text(v, kind == 'r');
      if (size_t dot = flags.find('.'); dot != flags.npos)
        bad(n, "'%': format '{}{}' is not there", flags, kind);
      const bool left = flags.starts_with('-');
      const std::string width = flags.substr(left);
      if (width.find_first_not_of("0123456789") != width.npos)
        bad(n, "'%': format '{}{}' is not there", flags, kind);
      if (!width.empty()) one = padded(one, std::stoll(width), left ? "ljust" : "rjust", " ");
    } else if ((kind == 'd' || kind == 'i' || kind == 'f' || kind == 'x') && is_number(v)) {
      char buf[1024];
      const std::string f = "%" + flags + (kind == 'f' ? "f" : kind == 'x' ? "lx" : "ld");
      const int size =
          kind == 'f' ? std::snprintf(buf, sizeof buf, f.c_str(), as_double(v))
                      : std::snprintf(buf, sizeof buf, f.c_str(), static_cast<long>(as_double(v)));
      if (size < 0 || size >= int(sizeof buf)) bad(n, "'%': format '{}' is too wide", flags);
      one.assign(buf, size_t(size));
    } else {
      bad(n, "'%{}' of {} is not there", kind, v.type_name());
    }
    o += one;
    if (o.size() > kMaxOutput) bad(n, "string too long");
  }
  if (values.is_array() && next < values.size()) bad(n, "'%': a value too many");
  return o;
}

}  // namespace sutor::jinja
