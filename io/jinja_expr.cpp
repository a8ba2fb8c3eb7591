// Expressions: names, literals, attributes, subscripts and slices, comparisons, arithmetic.
// Integers beyond 2^53 and types that Python would refuse are errors.

#include <algorithm>
#include <cmath>

#include "io/jinja_eval.h"

namespace sutor::jinja {

Value Eval::eval(const Node& n) {
  const Depth guard = enter(n);
  if (n.op == "const") return Value(n.value);
  if (n.op == "name") return find(n.name) ? *find(n.name) : Value();
  if (n.op == "list") {
    Json a = Json::array();
    for (auto& k : n.kids) a.push_back(eval(*k).j);
    return a;
  }
  if (n.op == "dict") {
    Json o = Json::object();
    for (size_t i = 0; i < n.kids.size(); i += 2)
      o[str(n, eval(*n.kids[i]).j)] = eval(*n.kids[i + 1]).j;
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
  if (n.op == "test") return Value(Json(test(n, n.name, eval(*n.kids[0]))));
  if (n.op == "filter") return filter(n, eval(*n.kids[0]));
  if (n.op == "compare") return compare(n);
  if (n.op == "binary") return binary(n, eval(*n.kids[0]).j, eval(*n.kids[1]).j);
  if (n.op == "unary") {
    Json a = eval(*n.kids[0]).j;
    if (!a.is_number()) bad(n, "unary '{}' needs a number", n.name);
    if (n.name == "+") return a;
    if (a.is_number_float()) return Json(-a.get<double>());
    return Json(-a.get<int64_t>());
  }
  return attribute(n);
}

Value Eval::attribute(const Node& n) {
  Value a = eval(*n.kids[0]);
  if (a.undefined()) bad(n, "'{}' of an undefined value", n.name.empty() ? "[]" : n.name);
  if (n.op == "slice") return slice(n, a.j);
  Json key = n.op == "attr" ? Json(n.name) : eval(*n.kids[1]).j;
  if (a.ns && key.is_string()) return a.ns->count(key) ? (*a.ns)[key.get<std::string>()] : Value();
  if (a.j.is_object() && key.is_string())
    return a.j.contains(key.get<std::string>()) ? Value(a.j[key.get<std::string>()]) : Value();
  // What groupby gives are pairs with names.
  if (a.j.is_array() && a.j.size() == 2 && (key == "grouper" || key == "list"))
    return Value(a.j[key == "list"]);
  if ((a.j.is_array() || a.j.is_string()) && key.is_number_integer()) {
    Json all = items_of(n, a.j);
    auto i = key.get<int64_t>();
    if (i < 0) i += int64_t(all.size());
    return i >= 0 && i < int64_t(all.size()) ? Value(all[size_t(i)]) : Value();
  }
  return Value();
}

Value Eval::slice(const Node& n, const Json& j) {
  Json all = items_of(n, j), o = Json::array();
  auto part = [&](size_t k, int64_t d) { return n.kids[k] ? whole(n, eval(*n.kids[k]).j) : d; };
  const int64_t step = part(3, 1), size = int64_t(all.size());
  if (step == 0) bad(n, "slice step 0");
  auto at = [&](size_t k, int64_t d) {
    int64_t v = part(k, d);
    if (!n.kids[k]) return v;
    if (v < 0) v += size;
    return step > 0 ? std::clamp<int64_t>(v, 0, size) : std::clamp<int64_t>(v, -1, size - 1);
  };
  const int64_t b = at(1, step > 0 ? 0 : size - 1), e = at(2, step > 0 ? size : -1);
  for (int64_t i = b; step > 0 ? i < e : i > e; i += step) o.push_back(all[size_t(i)]);
  if (!j.is_string()) return o;
  std::string s;
  for (auto& c : o) s += c.get<std::string>();
  return Json(s);
}

bool Eval::in(const Node& n, const Json& a, const Json& b) {
  if (b.is_string()) return b.get<std::string>().find(str(n, a)) != std::string::npos;
  if (b.is_object()) return a.is_string() && b.contains(a.get<std::string>());
  for (auto& v : items_of(n, b))
    if (v == a) return true;
  return false;
}

Value Eval::compare(const Node& n) {
  Json a = eval(*n.kids[0]).j;
  for (size_t i = 0; i < n.names.size(); ++i) {
    Json b = eval(*n.kids[i + 1]).j;
    const auto& op = n.names[i];
    bool ok;
    if (op == "==" || op == "!=")
      ok = ((a == b) || (a.is_discarded() && b.is_discarded())) == (op == "==");
    else if (op == "in" || op == "not in")
      ok = in(n, a, b) == (op == "in");
    else
      ok = op == "<"    ? less(n, a, b)
           : op == "<=" ? !less(n, b, a)
           : op == ">"  ? less(n, b, a)
                        : !less(n, a, b);
    if (!ok) return Json(false);
    a = b;
  }
  return Json(true);
}

bool Eval::less(const Node& n, const Json& a, const Json& b) {
  auto number = [](const Json& j) { return j.is_number() || j.is_boolean(); };
  if (number(a) && number(b))
    return (a.is_boolean() ? Json(int(a.get<bool>())) : a) <
           (b.is_boolean() ? Json(int(b.get<bool>())) : b);
  if (a.is_string() && b.is_string()) return a < b;
  if (!a.is_array() || !b.is_array()) bad(n, "'<' between {} and {}", a.type_name(), b.type_name());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (a[i] != b[i]) return less(n, a[i], b[i]);
  return a.size() < b.size();
}

Value Eval::binary(const Node& n, const Json& a, const Json& b) {
  if (n.name == "~") return Json(text(a) + text(b));
  if (n.name == "+" && a.is_string() && b.is_string())
    return Json(a.get<std::string>() + b.get<std::string>());
  if (n.name == "+" && a.is_array() && b.is_array()) {
    Json o = a;
    for (auto& v : b) o.push_back(v);
    return o;
  }
  if (n.name == "*" && a.is_string() && b.is_number_integer()) {
    std::string o, s = a.get<std::string>();
    for (int64_t i = 0; i < b.get<int64_t>(); ++i)
      if ((o += s).size() > kMaxOutput || ++steps_ > kMaxSteps) bad(n, "string too long");
    return Json(o);
  }
  if (!a.is_number() || !b.is_number())
    bad(n, "'{}' between {} and {}", n.name, a.type_name(), b.type_name());
  const double x = a.get<double>(), y = b.get<double>();
  const bool ints = a.is_number_integer() && b.is_number_integer();
  if ((n.name == "/" || n.name == "//" || n.name == "%") && y == 0) bad(n, "division by zero");
  if (n.name == "/") return Json(x / y);
  double r = n.name == "+"    ? x + y
             : n.name == "-"  ? x - y
             : n.name == "*"  ? x * y
             : n.name == "//" ? std::floor(x / y)
             : n.name == "%"  ? x - y * std::floor(x / y)
                              : std::pow(x, y);
  if (!ints || (n.name == "**" && y < 0)) return Json(r);
  if (std::abs(r) > 9e15) bad(n, "integer result of '{}' is too large", n.name);
  return Json(int64_t(r));
}

}  // namespace sutor::jinja
