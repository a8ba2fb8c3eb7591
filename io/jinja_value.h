#pragma once
// Values of the template language and what Python does with them: truth, str(), repr(), json.dumps,
// string methods. Internal to io/jinja_*.cpp.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/jinja.h"
#include "io/jinja_parser.h"

namespace sutor::jinja {

struct Value;
using Vars = std::map<std::string, Value>;
struct Value {
  Json j = Json(Json::value_t::discarded);  // discarded: undefined
  std::shared_ptr<Vars> ns;                 // namespace() or loop
  const Node* macro = nullptr;
  Value() = default;
  Value(Json v) : j(std::move(v)) {}
  bool undefined() const { return j.is_discarded() && !ns && !macro; }
};

bool truth(const Value& v);
std::string text(const Json& j,
                 bool quoted = false);  // Python's str(), or repr() inside containers
std::string tojson(const Json& j, int indent, int level = 0);
// Strips characters of `set` on the left (sides 1), the right (2) or both (3).
std::string trim(const std::string& s, const std::string& set = " \t\r\n\v\f", int sides = 3);
std::string replaced(const std::string& s, const std::string& a, const std::string& b);
std::vector<std::string> chars(const std::string& s);  // UTF-8 code points
std::vector<std::string> lines(const std::string& s);  // str.splitlines()
// upper, lower, title or capitalize; ASCII letters only.
std::string change_case(std::string s, const std::string& how);

}  // namespace sutor::jinja
