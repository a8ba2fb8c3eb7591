// Statements: text, print, if, for, set, macro, generation, break, continue; the variables they
// see; and the entry points of io/jinja.h.

#include "io/jinja_eval.h"

namespace sutor::jinja {

void Eval::exec(const Node& n) {
  const Depth guard = enter(n);
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
    Value v = n.kids.empty() ? Value(captured(n, n.body)) : eval(*n.kids[0]);
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

void Eval::unpack(const Node& n, const Json& v) {
  if (n.names.size() == 1) return void(scopes_.back()[n.names[0]] = Value(v));
  if (!v.is_array() || v.size() != n.names.size())
    bad(n, "cannot unpack into {} names", n.names.size());
  for (size_t i = 0; i < n.names.size(); ++i) scopes_.back()[n.names[i]] = Value(v[i]);
}

void Eval::loop(const Node& n) {
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

void Eval::emit(const Node& n, const std::string& s) {
  out.text += s;
  if (out.text.size() > kMaxOutput) bad(n, "output exceeds {} bytes", kMaxOutput);
}

std::string Eval::captured(const Node& n, const std::vector<NodePtr>& b) {
  std::string saved;
  saved.swap(out.text);
  const size_t spans = out.generation.size();
  body(b);
  if (out.generation.size() != spans) bad(n, "generation inside a macro or a set block");
  saved.swap(out.text);
  return saved;
}

Value* Eval::find(const std::string& name) {
  for (size_t i = scopes_.size(); i-- > 0;)
    if (auto it = scopes_[i].find(name); it != scopes_[i].end()) return &it->second;
  return nullptr;
}

Json Eval::arg(const Node& n, size_t i, const char* key, Json otherwise) {
  if (n.kids.size() > i) return eval(*n.kids[i]).j;
  for (auto& [k, v] : n.kwargs)
    if (k == key) return eval(*v).j;
  return otherwise;
}

Json Eval::items_of(const Node& n, const Json& j) {
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

std::string Eval::str(const Node& n, const Json& j) {
  if (!j.is_string()) bad(n, "'{}' needs a string, not {}", n.name, j.type_name());
  return j.get<std::string>();
}

int64_t Eval::whole(const Node& n, const Json& j) {
  if (!j.is_number_integer()) bad(n, "an integer is needed, not {}", j.type_name());
  return j.get<int64_t>();
}

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
