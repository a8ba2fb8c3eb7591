// Evaluates the tree. Caps on output, steps and depth keep a hostile template from hanging the
// host.

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "engine/error.h"
#include "io/jinja.h"
#include "io/jinja_parser.h"

namespace sutor::jinja {
namespace {

constexpr size_t kMaxOutput = size_t{64} << 20;
constexpr int64_t kMaxSteps = 20'000'000;
constexpr int kMaxDepth = 200;

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

bool truth(const Value& v) {
  const Json& j = v.j;
  if (j.is_discarded()) return v.ns || v.macro;
  if (j.is_boolean()) return j.get<bool>();
  if (j.is_number()) return j.get<double>() != 0;
  if (j.is_string()) return !j.get_ref<const std::string&>().empty();
  return !j.empty();
}

std::string real(double d) {
  auto s = fmt::format("{}", d);
  return s.find_first_of(".en") == s.npos ? s + ".0" : s;
}

std::string text(const Json& j,
                 bool quoted = false) {  // Python's str(), or repr() inside containers
  if (j.is_discarded()) return "";
  if (j.is_null()) return "None";
  if (j.is_boolean()) return j.get<bool>() ? "True" : "False";
  if (j.is_number_float()) return real(j.get<double>());
  if (j.is_number()) return j.dump();
  if (j.is_string()) {
    const auto& s = j.get_ref<const std::string&>();
    if (!quoted) return s;
    const char q = s.find('\'') != s.npos && s.find('"') == s.npos ? '"' : '\'';
    std::string out(1, q);
    for (char c : s) {
      if (c == '\n')
        out += "\\n";
      else if (c == '\t')
        out += "\\t";
      else if (c == '\r')
        out += "\\r";
      else if (c == '\\' || c == q)
        out += '\\', out += c;
      else
        out += c;
    }
    return out + q;
  }
  std::string out = j.is_array() ? "[" : "{";
  bool first = true;
  for (auto& [k, v] : j.items()) {
    if (!first) out += ", ";
    first = false;
    if (j.is_object()) out += text(Json(k), true) + ": ";
    out += text(v, true);
  }
  return out + (j.is_array() ? "]" : "}");
}

std::string tojson(const Json& j, int indent, int level = 0) {
  if (j.is_number_float()) return real(j.get<double>());
  if (!j.is_structured() || j.empty()) return j.dump();
  std::string out = j.is_array() ? "[" : "{";
  auto newline = [&](int n) { return "\n" + std::string(size_t(n * indent), ' '); };
  bool first = true;
  for (auto& [k, v] : j.items()) {
    if (!first) out += indent >= 0 ? "," : ", ";
    first = false;
    if (indent >= 0) out += newline(level + 1);
    if (j.is_object()) out += Json(k).dump() + ": ";
    out += tojson(v, indent, level + 1);
  }
  if (indent >= 0) out += newline(level);
  return out + (j.is_array() ? "]" : "}");
}

std::string trim(const std::string& s, const std::string& set = " \t\r\n\v\f", int sides = 3) {
  const size_t b = sides & 1 ? s.find_first_not_of(set) : 0;
  if (b == s.npos) return "";
  const size_t e = sides & 2 ? s.find_last_not_of(set) : s.size() - 1;
  return e == s.npos ? "" : s.substr(b, e + 1 - b);
}

std::string replaced(const std::string& s, const std::string& a, const std::string& b) {
  if (a.empty()) return s;
  std::string out;
  size_t i = 0;
  for (size_t p; (p = s.find(a, i)) != s.npos; i = p + a.size()) out += s.substr(i, p - i) + b;
  return out + s.substr(i);
}

std::vector<std::string> chars(const std::string& s) {  // UTF-8 code points
  std::vector<std::string> out;
  for (char c : s)
    if ((uint8_t(c) & 0xc0) == 0x80 && !out.empty())
      out.back() += c;
    else
      out.emplace_back(1, c);
  return out;
}

std::string change_case(std::string s, const std::string& how) {  // ASCII letters only
  bool start = true;
  for (char& c : s) {
    const bool letter = std::isalpha(static_cast<unsigned char>(c));
    const bool up = how == "upper" || (how != "lower" && start);
    c = char(up ? std::toupper(static_cast<unsigned char>(c))
                : std::tolower(static_cast<unsigned char>(c)));
    start = how == "title" && !letter;
  }
  return s;
}

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
  void emit(const Node& n, const std::string& s) {
    out.text += s;
    if (out.text.size() > kMaxOutput) bad(n, "output exceeds {} bytes", kMaxOutput);
  }
  std::string captured(const std::vector<NodePtr>& b) {
    std::string saved;
    saved.swap(out.text);
    body(b);
    saved.swap(out.text);
    return saved;
  }
  Json items_of(const Node& n, const Json& j) {
    if (j.is_array()) return j;
    Json a = Json::array();
    if (j.is_object())
      for (auto& [k, v] : j.items()) a.push_back(k);
    else if (j.is_string())
      for (auto& c : chars(j.get<std::string>())) a.push_back(c);
    else if (!j.is_discarded())
      bad(n, "{} is not iterable", j.type_name());
    return a;
  }

  void exec(const Node& n) {
    if (++steps_ > kMaxSteps) bad(n, "more than {} steps", kMaxSteps);
    if (++depth_ > kMaxDepth) bad(n, "nested deeper than {}", kMaxDepth);
    Depth guard{depth_};
    if (n.op == "text") return emit(n, n.name);
    if (n.op == "print") return emit(n, text(eval(*n.kids[0]).j));
    if (n.op == "if") return body(truth(eval(*n.kids[0])) ? n.body : n.orelse);
    if (n.op == "break") throw Break{};
    if (n.op == "continue") throw Continue{};
    if (n.op == "generation") {
      const size_t b = out.text.size();
      body(n.body);
      out.generation.emplace_back(b, out.text.size());
      return;
    }
    if (n.op == "macro") {
      Value v;
      v.macro = &n;
      scopes_.back()[n.name] = v;
      return;
    }
    if (n.op == "set") {
      Value v = n.kids.empty() ? Value(captured(n.body)) : eval(*n.kids[0]);
      if (!n.name.empty()) {
        Value* target = find(n.names[0]);
        if (!target || !target->ns) bad(n, "'{}' is not a namespace", n.names[0]);
        (*target->ns)[n.name] = v;
      } else if (n.names.size() == 1) {
        scopes_.back()[n.names[0]] = v;
      } else {
        unpack(n, v.j);
      }
      return;
    }
    loop(n);
  }
  void unpack(const Node& n, const Json& v) {
    if (n.names.size() == 1) return void(scopes_.back()[n.names[0]] = Value(v));
    if (!v.is_array() || v.size() != n.names.size())
      bad(n, "cannot unpack into {} names", n.names.size());
    for (size_t i = 0; i < n.names.size(); ++i) scopes_.back()[n.names[i]] = Value(v[i]);
  }
  void loop(const Node& n) {
    Json all = items_of(n, eval(*n.kids[0]).j), items = Json::array();
    scopes_.emplace_back();
    const size_t level = scopes_.size();
    for (auto& v : all) {
      if (n.kids[1]) {
        unpack(n, v);
        if (!truth(eval(*n.kids[1]))) continue;
      }
      items.push_back(v);
    }
    for (size_t i = 0; i < items.size(); ++i) {
      scopes_.resize(level);
      scopes_.back().clear();
      Value l;
      l.ns = std::make_shared<Vars>();
      const auto k = int64_t(i), size = int64_t(items.size());
      auto& m = *l.ns;
      m["index"] = Json(k + 1), m["index0"] = Json(k), m["first"] = Json(k == 0),
      m["last"] = Json(k + 1 == size);
      m["length"] = Json(size), m["revindex"] = Json(size - k), m["revindex0"] = Json(size - k - 1);
      m["previtem"] = k ? Value(items[i - 1]) : Value(),
      m["nextitem"] = k + 1 < size ? Value(items[i + 1]) : Value();
      scopes_.back()["loop"] = l;
      unpack(n, items[i]);
      try {
        body(n.body);
      } catch (Continue) {
      } catch (Break) {
        break;
      }
    }
    scopes_.resize(level - 1);
    if (items.empty()) body(n.orelse);
  }

  Value* find(const std::string& name) {
    for (size_t i = scopes_.size(); i-- > 0;)
      if (auto it = scopes_[i].find(name); it != scopes_[i].end()) return &it->second;
    return nullptr;
  }
  Json arg(const Node& n, size_t i, const char* key, Json otherwise) {
    if (n.kids.size() > i) return eval(*n.kids[i]).j;
    for (auto& [k, v] : n.kwargs)
      if (k == key) return eval(*v).j;
    return otherwise;
  }
  std::string str(const Node& n, const Json& j) {
    if (!j.is_string()) bad(n, "'{}' needs a string, not {}", n.name, j.type_name());
    return j.get<std::string>();
  }
  int64_t whole(const Node& n, const Json& j) {
    if (!j.is_number_integer()) bad(n, "an integer is needed, not {}", j.type_name());
    return j.get<int64_t>();
  }

  Value eval(const Node& n) {
    if (++steps_ > kMaxSteps) bad(n, "more than {} steps", kMaxSteps);
    if (++depth_ > kMaxDepth) bad(n, "nested deeper than {}", kMaxDepth);
    Depth guard{depth_};
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
    Value a = eval(*n.kids[0]);
    if (a.undefined()) bad(n, "'{}' of an undefined value", n.name.empty() ? "[]" : n.name);
    if (n.op == "slice") return slice(n, a.j);
    Json key = n.op == "attr" ? Json(n.name) : eval(*n.kids[1]).j;
    if (a.ns && key.is_string())
      return a.ns->count(key) ? (*a.ns)[key.get<std::string>()] : Value();
    if (a.j.is_object() && key.is_string())
      return a.j.contains(key.get<std::string>()) ? Value(a.j[key.get<std::string>()]) : Value();
    if ((a.j.is_array() || a.j.is_string()) && key.is_number_integer()) {
      Json all = items_of(n, a.j);
      auto i = key.get<int64_t>();
      if (i < 0) i += int64_t(all.size());
      return i >= 0 && i < int64_t(all.size()) ? Value(all[size_t(i)]) : Value();
    }
    return Value();
  }
  Value slice(const Node& n, const Json& j) {
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
  bool in(const Node& n, const Json& a, const Json& b) {
    if (b.is_string()) return b.get<std::string>().find(str(n, a)) != std::string::npos;
    if (b.is_object()) return a.is_string() && b.contains(a.get<std::string>());
    for (auto& v : items_of(n, b))
      if (v == a) return true;
    return false;
  }
  Value compare(const Node& n) {
    Json a = eval(*n.kids[0]).j;
    for (size_t i = 0; i < n.names.size(); ++i) {
      Json b = eval(*n.kids[i + 1]).j;
      const auto& op = n.names[i];
      bool ok;
      if (op == "==" || op == "!=")
        ok = ((a == b) || (a.is_discarded() && b.is_discarded())) == (op == "==");
      else if (op == "in" || op == "not in")
        ok = in(n, a, b) == (op == "in");
      else if (!((a.is_number() && b.is_number()) || (a.is_string() && b.is_string())))
        bad(n, "'{}' between {} and {}", op, a.type_name(), b.type_name());
      else
        ok = op == "<" ? a < b : op == "<=" ? a <= b : op == ">" ? b < a : b <= a;
      if (!ok) return Json(false);
      a = b;
    }
    return Json(true);
  }
  Value binary(const Node& n, const Json& a, const Json& b) {
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
  bool test(const Node& n, const std::string& t, const Value& v) {
    const Json& j = v.j;
    if (t == "defined" || t == "undefined") return v.undefined() == (t == "undefined");
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
  Value call(const Node& n);
  Value method(const Node& n, const std::string& m, const Json& self);
  Value filter(const Node& n, const Value& v);

  std::vector<Vars> scopes_;
  std::time_t now_;
  int64_t steps_ = 0;
  int depth_ = 0;
};

Value Eval::call(const Node& n) {
  const Node& f = *n.kids[0];
  if (f.op == "attr") {
    Value self = eval(*f.kids[0]);
    if (!self.ns) return method(n, f.name, self.j);
  }
  if (f.op == "name" && !find(f.name)) {
    if (f.name == "raise_exception") bad(n, "{}", text(arg(n, 1, "message", "")));
    if (f.name == "strftime_now") {
      char buf[256];
      std::tm tm{};
      gmtime_r(&now_, &tm);
      return Json(std::string(
          buf, std::strftime(buf, sizeof buf, str(n, arg(n, 1, "format", "")).c_str(), &tm)));
    }
    if (f.name == "range") {
      int64_t a = 0, b = whole(n, arg(n, 1, "", Json())), s = whole(n, arg(n, 3, "", 1));
      if (n.kids.size() > 2) a = b, b = whole(n, arg(n, 2, "", 0));
      if (s == 0) bad(n, "range step 0");
      Json o = Json::array();
      for (int64_t i = a; s > 0 ? i < b : i > b; i += s)
        if (o.push_back(i), o.size() > 100000) bad(n, "range longer than 100000");
      return o;
    }
    if (f.name == "namespace") {
      Value v;
      v.ns = std::make_shared<Vars>();
      for (auto& [k, e] : n.kwargs) (*v.ns)[k] = eval(*e);
      return v;
    }
    if (f.name == "dict") {
      Json o = Json::object();
      for (auto& [k, e] : n.kwargs) o[k] = eval(*e).j;
      return o;
    }
    bad(n, "unknown function '{}'", f.name);
  }
  Value v = eval(f);
  if (!v.macro) bad(n, "'{}' cannot be called", f.name);
  Vars local;
  const auto& p = v.macro->kwargs;
  if (n.kids.size() > p.size() + 1)
    bad(n, "macro '{}' takes {} arguments", v.macro->name, p.size());
  for (size_t i = 0; i < p.size(); ++i) {
    local[p[i].first] = i + 1 < n.kids.size() ? eval(*n.kids[i + 1])
                        : p[i].second         ? eval(*p[i].second)
                                              : Value();
    for (auto& [k, e] : n.kwargs)
      if (k == p[i].first) local[k] = eval(*e);
  }
  auto saved = scopes_;  // a macro sees the globals only
  scopes_.resize(1);
  scopes_.push_back(std::move(local));
  std::string s = captured(v.macro->body);
  scopes_ = std::move(saved);
  return Json(s);
}

Value Eval::method(const Node& n, const std::string& m, const Json& self) {
  Json a = arg(n, 1, "", Json());
  if (self.is_object()) {
    if (m == "get") {
      if (self.contains(text(a))) return self[text(a)];
      return arg(n, 2, "default", Json());
    }
    Json o = Json::array();
    if (m == "items" || m == "keys" || m == "values") {
      for (auto& [k, v] : self.items())
        o.push_back(m == "keys" ? Json(k) : m == "values" ? v : Json::array({k, v}));
      return o;
    }
  }
  if (self.is_string()) {
    const auto s = self.get<std::string>();
    if (m == "strip" || m == "lstrip" || m == "rstrip")
      return Json(trim(s, a.is_string() ? a.get<std::string>() : " \t\r\n\v\f",
                       m == "strip"    ? 3
                       : m == "lstrip" ? 1
                                       : 2));
    if (m == "startswith") return Json(s.starts_with(str(n, a)));
    if (m == "endswith") return Json(s.ends_with(str(n, a)));
    if (m == "replace") return Json(replaced(s, str(n, a), str(n, arg(n, 2, "", Json()))));
    if (m == "upper" || m == "lower" || m == "title" || m == "capitalize")
      return Json(change_case(s, m));
    if (m == "find")
      return Json(int64_t(s.find(str(n, a)) == s.npos ? -1 : int64_t(s.find(str(n, a)))));
    if (m == "split") {
      Json o = Json::array();
      size_t i = 0;
      if (a.is_null()) {
        while ((i = s.find_first_not_of(" \t\r\n", i)) != s.npos) {
          const size_t e = std::min(s.find_first_of(" \t\r\n", i), s.size());
          o.push_back(s.substr(i, e - i)), i = e;
        }
        return o;
      }
      const auto sep = str(n, a);
      if (sep.empty()) bad(n, "empty separator");
      int64_t left = whole(n, arg(n, 2, "maxsplit", -1));
      for (size_t p; left-- != 0 && (p = s.find(sep, i)) != s.npos; i = p + sep.size())
        o.push_back(s.substr(i, p - i));
      o.push_back(s.substr(i));
      return o;
    }
  }
  bad(n, "{} has no method '{}'", self.type_name(), m);
}

Value Eval::filter(const Node& n, const Value& v) {
  const auto& f = n.name;
  const Json& j = v.j;
  if (f == "default" || f == "d") {
    const bool use = v.undefined() || (truth(Value(arg(n, 2, "boolean", false))) && !truth(v));
    return use ? Value(arg(n, 1, "default_value", "")) : v;
  }
  if (f == "tojson") return Json(tojson(j, int(whole(n, arg(n, 2, "indent", -1)))));
  if (f == "string" || f == "safe") return Json(text(j));
  if (f == "trim") return Json(trim(text(j)));
  if (f == "upper" || f == "lower" || f == "title" || f == "capitalize")
    return Json(change_case(text(j), f));
  if (f == "replace")
    return Json(replaced(text(j), str(n, arg(n, 1, "old", "")), str(n, arg(n, 2, "new", ""))));
  if (f == "length" || f == "count") return Json(int64_t(items_of(n, j).size()));
  if (f == "list") return items_of(n, j);
  if (f == "items") return method(n, "items", j);
  if (f == "abs")
    return j.is_number_float() ? Json(std::abs(j.get<double>())) : Json(std::abs(whole(n, j)));
  if (f == "int")
    return j.is_string() ? Json(int64_t(std::atoll(text(j).c_str()))) : Json(j.get<int64_t>());
  if (f == "float") return j.is_string() ? Json(std::atof(text(j).c_str())) : Json(j.get<double>());
  if (f == "first" || f == "last") {
    Json a = items_of(n, j);
    return a.empty() ? Value() : Value(f == "first" ? a.front() : a.back());
  }
  if (f == "reverse") {
    Json a = items_of(n, j);
    std::reverse(a.begin(), a.end());
    return a;
  }
  if (f == "join") {
    std::string s, sep = text(arg(n, 1, "d", ""));
    bool first = true;
    for (auto& e : items_of(n, j)) s += (first ? "" : sep) + text(e), first = false;
    return Json(s);
  }
  if (f == "map" || f == "selectattr" || f == "rejectattr" || f == "select" || f == "reject") {
    Json o = Json::array();
    const bool attr = f.ends_with("attr");
    const std::string key = text(arg(n, 1, "attribute", ""));
    Node inner;
    inner.line = n.line, inner.op = "call";
    for (auto& e : items_of(n, j)) {
      const bool has = e.is_object() && e.contains(key);
      if (f == "map") {
        if (n.kids.size() < 2) {
          o.push_back(has ? e[key] : Json());
        } else {
          inner.name = key;
          o.push_back(filter(inner, Value(e)).j);
        }
        continue;
      }
      const Value what = attr ? (has ? Value(e[key]) : Value()) : Value(e);
      const size_t at = attr ? 2 : 1;
      const bool ok = n.kids.size() > at ? test(n, text(arg(n, at, "", "")), what) : truth(what);
      if (ok == f.starts_with("select")) o.push_back(e);
    }
    return o;
  }
  if (f == "unique" || f == "sum") {
    Json o = Json::array(), total = 0;
    for (auto& e : items_of(n, j)) {
      if (f == "unique" && std::find(o.begin(), o.end(), e) == o.end()) o.push_back(e);
      if (f == "sum") total = total.is_null() ? e : Json(whole(n, total) + whole(n, e));
    }
    return f == "sum" ? total : o;
  }
  bad(n, "unknown filter '{}'", f);
}

}  // namespace

Rendered render_spans(std::string_view source, const Json& variables, std::time_t now) {
  auto tree = parse(source);
  Eval e(variables, now);
  try {
    e.body(tree);
  } catch (Break) {
    fail("template: break outside a loop");
  } catch (Continue) {
    fail("template: continue outside a loop");
  }
  return std::move(e.out);
}

std::string render(std::string_view source, const Json& variables, std::time_t now) {
  return render_spans(source, variables, now).text;
}

}  // namespace sutor::jinja
