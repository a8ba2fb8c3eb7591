#pragma once
// The evaluator of template trees: statements in io/jinja_eval.cpp, expressions in jinja_expr.cpp,
// functions and methods in jinja_call.cpp, filters in jinja_filters.cpp, tests in jinja_tests.cpp.
// Caps on output, steps and depth keep a hostile template from hanging its host.

#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "io/jinja_value.h"

namespace sutor::jinja {

constexpr size_t kMaxOutput = size_t{64} << 20;
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
  void step(const Node& n) {
    if (++steps_ > kMaxSteps) bad(n, "more than {} steps", kMaxSteps);
  }

  // Statements.
  void exec(const Node& n);
  void unpack(const Node& n, const Json& v);
  void loop(const Node& n);
  void emit(const Node& n, const std::string& s);
  std::string captured(const Node& n, const std::vector<NodePtr>& b);

  // Expressions.
  Value eval(const Node& n);
  Value attribute(const Node& n);
  Value slice(const Node& n, const Json& j);
  bool in(const Node& n, const Json& a, const Json& b);
  Value compare(const Node& n);
  bool less(const Node& n, const Json& a, const Json& b);
  Value binary(const Node& n, const Json& a, const Json& b);

  // Calls: kids[0] is what is called, kids[1..] the arguments; of a filter or test, kids[0] is the
  // subject.
  Value call(const Node& n);
  Value function(const Node& n, const std::string& f);
  static bool is_function(const std::string& name);
  Value method(const Node& n, const std::string& m, const Json& self);
  Value filter(const Node& n, const Value& v);
  Value list_filter(const Node& n, const Json& j);
  Value choose(const Node& n, const Json& j);
  std::vector<Json> sort_keys(const Node& n, const Json& items, const Json& attribute, bool exact);
  Json sorted(const Node& n, const Json& items, const std::vector<Json>& keys, bool reverse);
  bool test(const Node& n, const std::string& t, const Value& v);

  // Helpers.
  Value* find(const std::string& name);
  Json arg(const Node& n, size_t i, const char* key, Json otherwise);
  Json items_of(const Node& n, const Json& j);
  std::string str(const Node& n, const Json& j);
  int64_t whole(const Node& n, const Json& j);

  std::vector<Vars> scopes_;
  std::time_t now_;
  int64_t steps_ = 0;
  int depth_ = 0;
};

}  // namespace sutor::jinja
