// Statements: text, print, if, for, set, with, macro, call, filter, generation, break, continue;
// the variables they see; and the entry points of io/jinja.h.

#include "io/jinja_eval.h"

namespace sutor::jinja {

void Eval::exec(const Node& n) {
  const Depth guard = enter(n);
  if (n.op == "text") return emit(n, n.name);
  if (n.op == "print") {
    const Value v = eval(*n.kids[0]);
    charge(n, v.j());
    return emit(n, text(v.j()));
  }
  if (n.op == "if") return body(truth(eval(*n.kids[0])) ? n.body : n.orelse);
  if (n.op == "break") throw Break{};
  if (n.op == "continue") throw Continue{};
  if (n.op == "generation") {
    if (capturing_ > 0) bad(n, "generation inside a macro or a set block");
    const size_t b = out.text.size();
    scopes_.emplace_back();
    body(n.body);
    scopes_.pop_back();
    out.generation.emplace_back(b, out.text.size());
    return;
  }
  if (n.op == "macro") {
    Value v;
    v.macro = &n;
    scopes_.back()[n.name] = v;
    return;
  }
  if (n.op == "call block") {
    const Value v = call(*n.kids[0], &n);
    charge(n, v.j());
    return emit(n, text(v.j()));
  }
  if (n.op == "filter block") {
    const Value v = through_filters(n.kids[0].get(), captured(n, n.body));
    return emit(n, text(v.j()));
  }
  if (n.op == "with") {
    Vars inner;
    for (auto& [k, e] : n.kwargs) inner[k] = eval(*e);
    scopes_.push_back(std::move(inner));
    body(n.body);
    scopes_.pop_back();
    return;
  }
  if (n.op == "for") return loop(n);
  const Value v = n.op == "set block" ? through_filters(n.kids[0].get(), captured(n, n.body))
                                      : eval(*n.kids[0]);
  if (!n.name.empty()) {
    Value* target = find(n.names[0]);
    if (!target || !target->ns || target->ns->count("index0"))
      bad(n, "'{}' is not a namespace", n.names[0]);
    if (n.name.starts_with('_')) bad(n, "a namespace takes no name like '{}'", n.name);
    (*target->ns)[n.name] = v;
  } else {
    unpack(n, v);
  }
}

void Eval::unpack(const Node& n, const Value& v) {
  if (n.names.size() == 1) return void(scopes_.back()[n.names[0]] = v);
  const Value list = items_of(n, v);
  if (list.j().size() != n.names.size())
    bad(n, "{} values for {} names", list.j().size(), n.names.size());
  for (size_t i = 0; i < n.names.size(); ++i) scopes_.back()[n.names[i]] = Value(list, list.j()[i]);
}

void Eval::loop(const Node& n) {
  const Value all = items_of(n, eval(*n.kids[0]));
  std::vector<Value> items;
  scopes_.emplace_back();
  const size_t level = scopes_.size();
  step(n, static_cast<int64_t>(all.j().size()));
  for (auto& v : all.j()) {
    const Value item(all, v);
    if (n.kids[1]) {
      unpack(n, item);
      if (!truth(eval(*n.kids[1]))) continue;
    }
    items.push_back(item);
  }
  Value l;
  l.ns = std::make_shared<Vars>();
  for (size_t i = 0; i < items.size(); ++i) {
    scopes_.resize(level);
    scopes_.back().clear();
    const auto k = int64_t(i), size = int64_t(items.size());
    auto& m = *l.ns;
    m["index"] = Json(k + 1), m["index0"] = Json(k), m["first"] = Json(k == 0),
    m["last"] = Json(k + 1 == size);
    m["length"] = Json(size), m["revindex"] = Json(size - k), m["revindex0"] = Json(size - k - 1);
    m["depth"] = Json(1), m["depth0"] = Json(0);  // of recursive loops, which are not there
    m["previtem"] = k ? items[i - 1] : Value(),
    m["nextitem"] = k + 1 < size ? items[i + 1] : Value();
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

// What a body would print; its variables are its own.
Value Eval::captured(const Node& n, const std::vector<NodePtr>& b) {
  std::string saved;
  struct Capture {  // ends also when a break or continue leaves the body
    std::string &text, &saved;
    int& capturing;
    Capture(std::string& t, std::string& s, int& c) : text(t), saved(s), capturing(c) {
      saved.swap(text);
      ++capturing;
    }
    ~Capture() {
      --capturing;
      saved.swap(text);
    }
  };
  scopes_.emplace_back();
  {
    Capture guard(out.text, saved, capturing_);
    body(b);
  }
  scopes_.pop_back();  // a loop that catches a break takes its own scopes away
  step(n, static_cast<int64_t>(saved.size()) / 64);
  return Json(std::move(saved));
}

// A chain of filters over `body`, which stands where the parser put a node "body"; null: no filter.
Value Eval::through_filters(const Node* chain, const Value& body) {
  if (chain == nullptr || chain->op == "body") return body;
  const Depth guard = enter(*chain);
  const Value v = through_filters(chain->kids[0].get(), body);
  if (chain->op != "filter") bad(*chain, "only filters may follow here");
  Arguments a = arguments(*chain);
  return filter(*chain, chain->name, v, a);
}

Value* Eval::find(const std::string& name) {
  for (size_t i = scopes_.size(); i-- > 0;)
    if (auto it = scopes_[i].find(name); it != scopes_[i].end()) return &it->second;
  return nullptr;
}

Value Eval::items_of(const Node& n, const Value& v) {
  const Json& j = v.j();
  if (j.is_array()) return v;
  Json a = Json::array();
  charge(n, j);
  if (j.is_object())
    for (auto& [k, x] : j.items()) a.push_back(k);
  else if (j.is_string())
    return list_of(n, chars(j.get_ref<const std::string&>()));
  else if (!j.is_discarded() || v.ns || v.callable())
    bad(n, "{} is not iterable", j.type_name());
  return a;
}

Value Eval::list_of(const Node& n, std::vector<std::string> parts) {
  step(n, static_cast<int64_t>(parts.size()));
  Json a = Json::array();
  for (std::string& s : parts) a.push_back(std::move(s));
  return a;
}

const std::string& Eval::str(const Node& n, const Value& v) {
  if (!v.j().is_string()) bad(n, "'{}' needs a string, not {}", n.name, v.j().type_name());
  return v.j().get_ref<const std::string&>();
}

int64_t Eval::whole(const Node& n, const Value& v) {
  const Json& j = v.j();
  if (j.is_boolean()) return j.get<bool>();
  if (!j.is_number_integer()) bad(n, "an integer is needed, not {}", j.type_name());
  return j.get<int64_t>();
}

int64_t Eval::whole_or(const Node& n, const Value& v, int64_t otherwise) {
  return v.undefined() || v.j().is_null() ? otherwise : whole(n, v);
}

void Eval::all_used(const Node& n, const std::string& what, const Arguments& a) {
  if (std::string extra = a.left_over(); !extra.empty())
    bad(n, "'{}' takes no argument {}", what, extra);
}

Rendered render_spans(std::string_view source, const Json& variables, std::time_t now) {
  auto tree = parse(source);
  Eval e(variables, now);
  e.body(tree);
  return std::move(e.out);
}

std::string render(std::string_view source, const Json& variables, std::time_t now) {
  return render_spans(source, variables, now).text;
}

}  // namespace sutor::jinja
