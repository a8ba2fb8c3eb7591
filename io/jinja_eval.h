#pragma once
// The evaluator of template trees: statements in io/jinja_eval.cpp, expressions in jinja_expr.cpp,
// functions and macros in jinja_call.cpp, methods in jinja_methods.cpp, filters in
// jinja_filters.cpp and jinja_lists.cpp, tests in jinja_tests.cpp. Caps on output, on steps and on
// depth keep a hostile template from hanging its host; work on large values counts as steps.

#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "io/jinja_text.h"
#include "io/jinja_value.h"

namespace sutor::jinja {

constexpr int64_t kMaxSteps = 20'000'000;
constexpr int kMaxDepth = 200;

struct Break {};
struct Continue {};

class Eval {
 public:
  Eval(const Json& vars, std::time_t now) : now_(now) {
    scopes_.emplace_back();
    for (auto& [k, v] : vars.items()) scopes_[0][k] = Value(v);
  }
  void body(const std::vector<NodePtr>& b) {
    for (auto& n : b) exec(*n);
  }
  Rendered out;

 private:
  template <class... A>
  [[noreturn]] void bad(const Node& n, fmt::format_string<A...> f, A&&... a) {
    fail("template line {}: {}", n.line, fmt::format(f, std::forward<A>(a)...));
  }
  struct Depth {
    int& d;
    ~Depth() { --d; }
  };
  // Counts the step; the nesting until the result goes.
  [[nodiscard]] Depth enter(const Node& n) {
    step(n);
    if (++depth_ > kMaxDepth) bad(n, "nested deeper than {}", kMaxDepth);
    return Depth{depth_};
  }
  void step(const Node& n, int64_t work = 1) {
    if ((steps_ += work) > kMaxSteps) bad(n, "more than {} steps", kMaxSteps);
  }
  void charge(const Node& n, const Json& j) { step(n, weight(j, kMaxSteps)); }

  // Statements.
  void exec(const Node& n);
  void unpack(const Node& n, const Value& v);
  void loop(const Node& n);
  void emit(const Node& n, const std::string& s);
  Value captured(const Node& n, const std::vector<NodePtr>& b);
  Value through_filters(const Node* chain, const Value& body);

  // Expressions.
  Value eval(const Node& n);
  Value attribute(const Node& n);
  Value slice(const Node& n, const Value& v);
  bool in(const Node& n, const Json& a, const Json& b);
  Value compare(const Node& n);
  bool compared(const Node& n, const std::string& op, const Json& a, const Json& b);
  bool less(const Node& n, const Json& a, const Json& b);
  Value binary(const Node& n, const Json& a, const Json& b);

  // Calls: kids[0] is what is called, kids[1..] the arguments; of a filter or test, kids[0] is the
  // subject.
  Arguments arguments(const Node& n);
  Value call(const Node& n, const Node* caller = nullptr);
  Value macro(const Node& n, const Value& m, Arguments a, const Node* caller);
  Value function(const Node& n, const std::string& f, Arguments& a);
  static bool is_function(const std::string& name);
  Value method(const Node& n, const std::string& m, const Value& self, Arguments& a);
  Value string_method(const Node& n, const std::string& m, const std::string& s, Arguments& a);
  Value filter(const Node& n, const std::string& f, const Value& v, Arguments& a);
  bool text_filter(const Node& n, const std::string& f, const Value& v, Arguments& a, Value& out);
  bool list_filter(const Node& n, const std::string& f, const Value& v, Arguments& a, Value& out);
  Value choose(const Node& n, const std::string& f, const Value& v, Arguments& a);
  std::string formatted(const Node& n, const std::string& s, const Json& values);
  std::vector<Json> sort_keys(const Node& n, const Json& items, const Json& attribute, bool exact);
  Json sorted(const Node& n, const Json& items, const std::vector<Json>& keys, bool reverse);
  bool test(const Node& n, const std::string& t, const Value& v, Arguments& a);

  // Helpers.
  Value* find(const std::string& name);
  Value items_of(const Node& n, const Value& v);  // a list: keys of a mapping, characters of a text
  Value list_of(const Node& n, std::vector<std::string> parts);
  const std::string& str(const Node& n, const Value& v);
  int64_t whole(const Node& n, const Value& v);
  int64_t whole_or(const Node& n, const Value& v, int64_t otherwise);
  void all_used(const Node& n, const std::string& what, const Arguments& a);

  std::vector<Vars> scopes_;
  std::time_t now_;
  int64_t steps_ = 0;
  int depth_ = 0, capturing_ = 0;
};

}  // namespace sutor::jinja
