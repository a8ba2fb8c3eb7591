// What can be called: macros and call blocks, the functions transformers gives to templates
// (raise_exception, strftime_now) and jinja's own (range, namespace, dict).

#include <algorithm>

#include "io/jinja_eval.h"

namespace sutor::jinja {

Arguments Eval::arguments(const Node& n) {
  Arguments a;
  for (size_t i = 1; i < n.kids.size(); ++i) a.at.push_back(eval(*n.kids[i]));
  for (auto& [k, e] : n.kwargs) a.named.emplace_back(k, eval(*e));
  return a;
}

Value Eval::call(const Node& n, const Node* caller) {
  const Node& f = *n.kids[0];
  if (f.op == "attr") {
    const Value self = eval(*f.kids[0]);
    if (self.undefined()) bad(n, "'{}' of an undefined value", f.name);
    if (!self.ns || !self.ns->count(f.name)) {
      Arguments a = arguments(n);
      const Value v = method(f, f.name, self, a);
      all_used(n, f.name, a);
      return v;
    }
  }
  const Value v = eval(f);
  Arguments a = arguments(n);
  if (v.macro) return macro(n, v, std::move(a), caller);
  if (v.function.empty()) bad(n, "'{}' cannot be called", f.name);
  const Value result = v.self ? method(n, v.function, *v.self, a) : function(n, v.function, a);
  all_used(n, v.function, a);
  return result;
}

Value Eval::macro(const Node& n, const Value& m, Arguments a, const Node* caller) {
  const Depth guard = enter(n);
  const auto& parameters = m.macro->kwargs;
  const std::string& name = m.macro->name;
  Vars local;
  auto wants = [&](const char* more) {
    const auto& names = m.macro->names;
    return std::find(names.begin(), names.end(), more) != names.end();
  };
  if (a.at.size() > parameters.size()) {
    if (!wants("varargs")) bad(n, "'{}' takes {} arguments", name, parameters.size());
    Json rest = Json::array();
    for (size_t i = parameters.size(); i < a.at.size(); ++i) rest.push_back(a.get(i, "").j());
    local["varargs"] = rest;
  } else if (wants("varargs")) {
    local["varargs"] = Json::array();
  }
  if (wants("kwargs")) {
    Json rest = Json::object();
    for (auto& [k, v] : a.named)
      if (std::none_of(parameters.begin(), parameters.end(),
                       [&k = k](auto& p) { return p.first == k; })) {
        a.get(Arguments::kNamedOnly, k);
        rest[k] = v.j();
      }
    local["kwargs"] = rest;
  }
  if (caller != nullptr) {
    Value c;
    c.macro = caller;
    c.seen = std::make_shared<std::vector<Vars>>(scopes_);
    local["caller"] = c;
  }
  // A macro sees the globals, the body of a call block what stands around it.
  std::vector<Vars> saved, inside;
  const bool global = !m.seen;
  if (global)
    inside.push_back(std::move(scopes_[0]));
  else
    inside = *m.seen;
  saved.swap(scopes_);
  scopes_ = std::move(inside);
  scopes_.push_back(std::move(local));
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto& [key, otherwise] = parameters[i];
    Value v;
    if (a.has(i, key))
      v = a.get(i, key);
    else if (otherwise)
      v = eval(*otherwise);
    scopes_.back()[key] = v;
    a.get(i, key);
  }
  all_used(n, name, a);
  const Value result = captured(n, m.macro->body);
  if (global) saved[0] = std::move(scopes_[0]);
  scopes_ = std::move(saved);
  return result;
}

bool Eval::is_function(const std::string& name) {
  return name == "raise_exception" || name == "strftime_now" || name == "range" ||
         name == "namespace" || name == "dict";
}

Value Eval::function(const Node& n, const std::string& f, Arguments& a) {
  if (f == "raise_exception") bad(n, "{}", text(a.get(0, "message").j()));
  if (f == "strftime_now") {
    char buf[256];
    std::tm tm{};
    gmtime_r(&now_, &tm);
    const Value format = a.get(0, "format");
    return Json(std::string(buf, std::strftime(buf, sizeof buf, str(n, format).c_str(), &tm)));
  }
  if (f == "range") {
    const Value first = a.get(0, ""), second = a.get(1, ""), third = a.get(2, "");
    int64_t b = 0, e = whole(n, first);
    if (!second.undefined()) b = e, e = whole(n, second);
    const int64_t s = whole_or(n, third, 1);
    if (s == 0) bad(n, "range step 0");
    Json o = Json::array();
    for (int64_t i = b; s > 0 ? i < e : i > e;) {
      step(n);
      if (o.push_back(i), o.size() > 100000) bad(n, "range longer than 100000");
      if (__builtin_add_overflow(i, s, &i)) break;  // past the last whole number, so past e
    }
    return o;
  }
  // namespace(mapping, name=value, ...) and dict(...).
  Vars all;
  Json o = Json::object();
  const Value base = a.get(0, "");
  if (!base.undefined() && !base.j().is_object())
    bad(n, "'{}' needs a mapping, not {}", f, base.j().type_name());
  if (!base.undefined()) {
    charge(n, base.j());
    o = base.j();
    for (auto& [k, v] : base.j().items()) all[k] = Value(base, v);
  }
  for (auto& [k, v] : a.named) {
    a.get(Arguments::kNamedOnly, k);
    if (f == "namespace" && k.starts_with('_')) bad(n, "a namespace takes no name like '{}'", k);
    all[k] = v;
    charge(n, v.j());
    if (f == "dict") o[k] = v.j();
  }
  if (f == "dict") return o;
  Value v;
  v.ns = std::make_shared<Vars>(std::move(all));
  return v;
}

}  // namespace sutor::jinja
