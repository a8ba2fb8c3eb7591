// Tests, `x is NAME` and `x is NAME(argument)`, as jinja2.tests defines them; selectattr and its
// kin name them too.

#include "io/jinja_eval.h"

namespace sutor::jinja {

bool Eval::test(const Node& n, const std::string& t, const Value& v, Arguments& a) {
  const Json& j = v.j();
  const Value other = a.get(0, "other");
  const std::string extra = a.left_over();
  if (!extra.empty()) bad(n, "test '{}' takes no argument {}", t, extra);
  static const std::map<std::string, std::string> kCompared = {
      {"eq", "=="}, {"equalto", "=="}, {"==", "=="},      {"ne", "!="},
      {"!=", "!="}, {"lt", "<"},       {"lessthan", "<"}, {"<", "<"},
      {"le", "<="}, {"<=", "<="},      {"gt", ">"},       {"greaterthan", ">"},
      {">", ">"},   {"ge", ">="},      {">=", ">="},      {"in", "in"}};
  if (auto c = kCompared.find(t); c != kCompared.end()) {
    if (!a.has(0, "other")) bad(n, "test '{}' needs an argument", t);
    return compared(n, c->second, j, other.j());
  }
  if (t == "divisibleby") {
    const int64_t by = whole(n, other);
    if (by == 0) bad(n, "division by zero");
    return by == -1 || whole(n, v) % by == 0;
  }
  if (t == "sameas") return j.type() == other.j().type() && equal(j, other.j());
  if (a.has(0, "other")) bad(n, "test '{}' takes no argument", t);
  if (t == "defined") return !v.undefined();
  if (t == "undefined") return v.undefined();
  if (t == "none") return j.is_null();
  if (t == "string") return j.is_string();
  if (t == "mapping") return j.is_object();
  if (t == "iterable" || t == "sequence")
    return j.is_string() || j.is_structured() || v.undefined();
  if (t == "callable") return v.callable() || v.undefined();
  if (t == "number") return is_number(j);
  if (t == "integer") return j.is_number_integer();
  if (t == "float") return j.is_number_float();
  if (t == "boolean") return j.is_boolean();
  if (t == "true") return j.is_boolean() && j.get<bool>();
  if (t == "false") return j.is_boolean() && !j.get<bool>();
  if (t == "odd" || t == "even") return (whole(n, v) % 2 != 0) == (t == "odd");
  if (t == "upper" || t == "lower") return all_of_class(text(j), "is" + t);
  if (t == "escaped") return false;
  bad(n, "unknown test '{}'", t);
}

}  // namespace sutor::jinja
