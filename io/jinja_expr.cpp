// Expressions: names, literals, attributes, subscripts and slices, comparisons, arithmetic.
// Integers beyond 2^53 and types that Python would refuse are errors.

#include <algorithm>
#include <cmath>

#include "io/jinja_eval.h"

namespace sutor::jinja {

Value Eval::eval(const Node& n) {
  const Depth guard = enter(n);
  if (n.op == "const") return Value(n.value);
  if (n.op == "name") {
    if (const Value* v = find(n.name)) return *v;
    Value f;
    if (is_function(n.name)) f.function = n.name;
    return f;
  }
  if (n.op == "list") {
    Json a = Json::array();
    for (auto& k : n.kids) {
      const Value v = eval(*k);
      charge(n, v.j());
      a.push_back(v.j());
    }
    return a;
  }
  if (n.op == "dict") {
    Json o = Json::object();
    for (size_t i = 0; i < n.kids.size(); i += 2) {
      const Value k = eval(*n.kids[i]), v = eval(*n.kids[i + 1]);
      charge(n, v.j());
      step(n, static_cast<int64_t>(o.size()));
      o[str(n, k)] = v.j();
    }
    return o;
  }
  if (n.op == "and" || n.op == "or") {
    Value a = eval(*n.kids[0]);
    return truth(a) == (n.op == "or") ? a : eval(*n.kids[1]);
  }
  if (n.op == "not") return Value(Json(!truth(eval(*n.kids[0]))));
  if (n.op == "ifexpr") {
    if (truth(eval(*n.kids[1]))) return eval(*n.kids[0]);
    return n.kids[2] ? eval(*n.kids[2]) : Value();
  }
  if (n.op == "call") return call(n);
  if (n.op == "test") {
    Value v = eval(*n.kids[0]);
    Arguments a = arguments(n);
    return Json(test(n, n.name, v, a));
  }
  if (n.op == "filter") {
    Value v = eval(*n.kids[0]);
    Arguments a = arguments(n);
    return filter(n, n.name, v, a);
  }
  if (n.op == "compare") return compare(n);
  if (n.op == "binary") {
    const Value a = eval(*n.kids[0]), b = eval(*n.kids[1]);
    if (n.name != "~")
      for (const Value* v : {&a, &b})
        if (v->undefined()) bad(n, "'{}' with an undefined value", n.name);
    return binary(n, a.j(), b.j());
  }
  if (n.op == "unary") {
    const Value v = eval(*n.kids[0]);
    const Json& a = v.j();
    if (a.is_boolean()) return Json(n.name == "-" ? -int64_t(a.get<bool>()) : a.get<bool>());
    if (!a.is_number()) bad(n, "unary '{}' needs a number", n.name);
    if (n.name == "+") return v;
    if (a.is_number_float()) return Json(-a.get<double>());
    const int64_t i = a.get<int64_t>();
    if (i == INT64_MIN) bad(n, "integer result of '-' is too large");
    return Json(-i);
  }
  if (n.op == "body") bad(n, "an expression is missing");
  return attribute(n);
}

Value Eval::attribute(const Node& n) {
  const Value a = eval(*n.kids[0]);
  if (a.undefined()) bad(n, "'{}' of an undefined value", n.name.empty() ? "[]" : n.name);
  if (n.op == "slice") return slice(n, a);
  const Value name = n.op == "attr" ? Value(Json(n.name)) : eval(*n.kids[1]);
  const Json &key = name.j(), &j = a.j();
  if (a.ns && key.is_string()) {
    auto it = a.ns->find(key.get_ref<const std::string&>());
    if (it != a.ns->end()) return it->second;
  }
  // x.items is the method even where x has such a key, x['items'] the key.
  const bool has_key =
      j.is_object() && key.is_string() && j.contains(key.get_ref<const std::string&>());
  static const std::vector<std::string> kOfMappings = {"get", "items", "keys", "values", "copy"};
  static const std::vector<std::string> kOfTexts = {
      "strip",      "lstrip",   "rstrip", "split",  "rsplit",     "splitlines",
      "startswith", "endswith", "upper",  "lower",  "title",      "find",
      "count",      "replace",  "join",   "format", "capitalize", "index"};
  const auto& methods = j.is_object() ? kOfMappings : kOfTexts;
  if (n.op == "attr" && (j.is_object() || j.is_string()) &&
      std::find(methods.begin(), methods.end(), n.name) != methods.end()) {
    Value m;
    m.function = n.name;
    m.self = std::make_shared<const Value>(a);
    return m;
  }
  if (has_key) return Value(a, j[key.get_ref<const std::string&>()]);
  // What groupby gives are pairs with names.
  if (j.is_array() && j.size() == 2 && (key == "grouper" || key == "list"))
    return Value(a, j[key == "list"]);
  if ((j.is_array() || j.is_string()) && key.is_number_integer()) {
    const Value all = items_of(n, a);
    auto i = key.get<int64_t>();
    if (i < 0) i += int64_t(all.j().size());
    return i >= 0 && i < int64_t(all.j().size()) ? Value(all, all.j()[size_t(i)]) : Value();
  }
  return Value();
}

Value Eval::slice(const Node& n, const Value& v) {
  if (!v.j().is_array() && !v.j().is_string()) bad(n, "{} has no slices", v.j().type_name());
  const Value list = items_of(n, v);
  const Json& all = list.j();
  auto part = [&](size_t k, int64_t d) { return n.kids[k] ? whole_or(n, eval(*n.kids[k]), d) : d; };
  const int64_t step_by = part(3, 1), size = int64_t(all.size());
  if (step_by == 0) bad(n, "slice step 0");
  auto at = [&](size_t k, int64_t d) {
    const Value given = n.kids[k] ? eval(*n.kids[k]) : Value();
    if (given.undefined() || given.j().is_null()) return d;
    int64_t i = whole(n, given);
    if (i < 0) i += size;
    return step_by > 0 ? std::clamp<int64_t>(i, 0, size) : std::clamp<int64_t>(i, -1, size - 1);
  };
  const int64_t b = at(1, step_by > 0 ? 0 : size - 1), e = at(2, step_by > 0 ? size : -1);
  Json o = Json::array();
  for (int64_t i = b; step_by > 0 ? i < e : i > e;) {
    charge(n, all[size_t(i)]);
    o.push_back(all[size_t(i)]);
    if (__builtin_add_overflow(i, step_by, &i)) break;
  }
  if (!v.j().is_string()) return o;
  std::string s;
  for (auto& c : o) s += c.get_ref<const std::string&>();
  return Json(std::move(s));
}

bool Eval::in(const Node& n, const Json& a, const Json& b) {
  charge(n, b);
  if (b.is_string()) {
    if (!a.is_string()) bad(n, "'in <string>' needs a string, not {}", a.type_name());
    return b.get_ref<const std::string&>().find(a.get_ref<const std::string&>()) !=
           std::string::npos;
  }
  if (b.is_object()) return a.is_string() && b.contains(a.get_ref<const std::string&>());
  if (b.is_discarded()) return false;
  if (!b.is_array()) bad(n, "{} is not iterable", b.type_name());
  for (auto& v : b)
    if (equal(v, a)) return true;
  return false;
}

Value Eval::compare(const Node& n) {
  Value a = eval(*n.kids[0]);
  for (size_t i = 0; i < n.names.size(); ++i) {
    Value b = eval(*n.kids[i + 1]);
    if (!compared(n, n.names[i], a.j(), b.j())) return Json(false);
    a = b;
  }
  return Json(true);
}

bool Eval::compared(const Node& n, const std::string& op, const Json& a, const Json& b) {
  if (op == "==" || op == "!=") {
    step(n, std::min(weight(a, kMaxSteps), weight(b, kMaxSteps)));
    return equal(a, b) == (op == "==");
  }
  if (op == "in" || op == "not in") return in(n, a, b) == (op == "in");
  return op == "<"    ? less(n, a, b)
         : op == "<=" ? !less(n, b, a)
         : op == ">"  ? less(n, b, a)
                      : !less(n, a, b);
}

bool Eval::less(const Node& n, const Json& a, const Json& b) {
  if (is_number(a) && is_number(b))
    return (a.is_boolean() ? Json(int(a.get<bool>())) : a) <
           (b.is_boolean() ? Json(int(b.get<bool>())) : b);
  if (a.is_string() && b.is_string()) return a < b;
  if (!a.is_array() || !b.is_array()) bad(n, "'<' between {} and {}", a.type_name(), b.type_name());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (!equal(a[i], b[i])) return less(n, a[i], b[i]);
  return a.size() < b.size();
}

Value Eval::binary(const Node& n, const Json& a, const Json& b) {
  if (n.name == "~" || (n.name == "+" && a.is_string() && b.is_string())) {
    charge(n, a), charge(n, b);
    std::string s = text(a) + text(b);
    if (s.size() > kMaxOutput) bad(n, "string too long");
    return Json(std::move(s));
  }
  if (n.name == "+" && a.is_array() && b.is_array()) {
    charge(n, a), charge(n, b);
    Json o = a;
    for (auto& v : b) o.push_back(v);
    return o;
  }
  if (n.name == "%" && a.is_string()) return Json(formatted(n, a.get_ref<const std::string&>(), b));
  if (n.name == "*" && a.is_number_integer() && (b.is_string() || b.is_array()))
    return binary(n, b, a);
  if (n.name == "*" && (a.is_string() || a.is_array()) && b.is_number_integer()) {
    const int64_t times = std::max<int64_t>(0, b.get<int64_t>());
    const int64_t each = weight(a, kMaxSteps);
    if (times > kMaxSteps / each) bad(n, "'*' makes too long a value");
    step(n, times * each);
    if (a.is_array()) {
      Json o = Json::array();
      for (int64_t i = 0; i < times; ++i)
        for (auto& v : a) o.push_back(v);
      return o;
    }
    const std::string& s = a.get_ref<const std::string&>();
    if (static_cast<double>(s.size()) * static_cast<double>(times) > double(kMaxOutput))
      bad(n, "string too long");
    std::string o;
    for (int64_t i = 0; i < times; ++i) o += s;
    return Json(std::move(o));
  }
  if (!is_number(a) || !is_number(b))
    bad(n, "'{}' between {} and {}", n.name, a.type_name(), b.type_name());
  const double x = as_double(a), y = as_double(b);
  const bool ints = !a.is_number_float() && !b.is_number_float();
  if ((n.name == "/" || n.name == "//" || n.name == "%") && y == 0) bad(n, "division by zero");
  if (n.name == "/") return Json(x / y);
  double r = n.name == "+"    ? x + y
             : n.name == "-"  ? x - y
             : n.name == "*"  ? x * y
             : n.name == "//" ? std::floor(x / y)
             : n.name == "%"  ? x - y * std::floor(x / y)
                              : std::pow(x, y);
  if (!ints || (n.name == "**" && y < 0)) return Json(r);
  if (!(std::abs(r) < 9e15)) bad(n, "integer result of '{}' is too large", n.name);
  return Json(int64_t(r));
}

}  // namespace sutor::jinja
