// Tests, `x is NAME` and `x is NAME(argument)`.

#include "io/jinja_eval.h"

namespace sutor::jinja {

bool Eval::test(const Node& n, const std::string& t, const Value& v) {
  const Json& j = v.j;
  if (t == "defined" || t == "undefined") {
    const bool function = n.kids[0]->op == "name" && is_function(n.kids[0]->name);
    return (v.undefined() && !function) == (t == "undefined");
  }
  if (t == "none") return j.is_null();
  if (t == "string") return j.is_string();
  if (t == "mapping") return j.is_object();
  if (t == "iterable" || t == "sequence") return j.is_string() || j.is_structured();
  if (t == "number") return j.is_number() || j.is_boolean();
  if (t == "integer") return j.is_number_integer();
  if (t == "float") return j.is_number_float();
  if (t == "boolean") return j.is_boolean();
  if (t == "true") return j == true;
  if (t == "false") return j == false;
  if (t == "odd" || t == "even") return (whole(n, j) % 2 != 0) == (t == "odd");
  if ((t == "in" || t == "eq" || t == "equalto" || t == "ne") && n.kids.size() > 1) {
    Json b = eval(*n.kids.back()).j;
    return t == "in" ? in(n, j, b) : (j == b) == (t != "ne");
  }
  bad(n, "unknown test '{}'", t);
}

}  // namespace sutor::jinja
