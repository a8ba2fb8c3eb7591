#pragma once
// Values of the template language and what Python does with them: truth, equality, str(), repr(),
// json.dumps. Data is shared, never copied, when it is named or taken apart. Internal to
// io/jinja_*.cpp.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/jinja.h"
#include "io/jinja_parser.h"

namespace sutor::jinja {

struct Value;
using Vars = std::map<std::string, Value>;

class Value {
 public:
  Value() = default;  // undefined
  Value(Json v) : data_(std::make_shared<const Json>(std::move(v))) {}
  Value(const Value& owner, const Json& part) : data_(owner.data_, &part) {}

  const Json& j() const;  // discarded when this is no data
  bool undefined() const { return j().is_discarded() && !callable() && !ns; }
  bool callable() const { return macro != nullptr || !function.empty(); }

  std::shared_ptr<Vars> ns;                 // namespace() or loop
  const Node* macro = nullptr;              // a macro, or the body of a call block
  std::shared_ptr<std::vector<Vars>> seen;  // what a call block's body sees; macros: the globals
  std::string function;                     // a name; or the method of `self`
  std::shared_ptr<const Value> self;

 private:
  std::shared_ptr<const Json> data_;
};

// What is passed to a function, filter or test. Whoever reads them reads them all: an argument that
// nobody asked for is an error.
class Arguments {
 public:
  static constexpr size_t kNamedOnly = 1000;
  std::vector<Value> at;
  std::vector<std::pair<std::string, Value>> named;

  // Argument number i, or the one of that name; undefined when it is not there.
  Value get(size_t i, std::string_view name);
  bool has(size_t i, std::string_view name) const;
  // Number or name of one that get() was never asked for; empty: none.
  std::string left_over() const;

 private:
  size_t read_ = 0;
  std::vector<std::string> names_read_;
};

bool truth(const Value& v);
bool is_number(const Json& j);             // bool is one, as in Python
double as_double(const Json& j);           // of such a number
bool equal(const Json& a, const Json& b);  // 1 == 1.0 == true; mappings in any order
std::string real(double d);                // repr() of a float
std::string quoted(const std::string& s);  // repr() of a str
std::string text(const Json& j, bool in_container = false);  // str(); repr() inside containers

struct JsonStyle {  // arguments of json.dumps
  bool ascii = false, sort_keys = false, pretty = false;
  std::string indent, item = ", ", key = ": ";
};
std::string tojson(const Json& j, const JsonStyle& style, int level = 0);

// How many values there are in j: the work of copying it. Stops counting above `limit`.
int64_t weight(const Json& j, int64_t limit, int depth = 0);

}  // namespace sutor::jinja
