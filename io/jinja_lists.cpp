// Filters of lists and mappings, as jinja2.filters defines them: sort, map, selectattr, groupby and
// the rest; and what elements are compared by.

#include <algorithm>
#include <numeric>
#include <set>

#include "io/jinja_eval.h"

namespace sutor::jinja {
namespace {

// a.b.0 of an element; discarded where there is none.
const Json& member(const Json& e, const std::string& path) {
  static const Json none(Json::value_t::discarded);
  const Json* at = &e;
  for (size_t i = 0; i <= path.size();) {
    const size_t dot = std::min(path.find('.', i), path.size());
    const std::string key = path.substr(i, dot - i);
    const bool number =
        !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == key.npos;
    if (at->is_object() && at->contains(key))
      at = &(*at)[key];
    else if (number && at->is_array() && std::stoul(key) < at->size())
      at = &(*at)[std::stoul(key)];
    else
      return none;
    i = dot + 1;
  }
  return *at;
}

}  // namespace

bool Eval::list_filter(const Node& n, const std::string& f, const Value& v, Arguments& a,
                       Value& out) {
  auto flag = [&](size_t i, const char* name) { return truth(a.get(i, name)); };
  auto attribute = [&](size_t i) {
    const Value x = a.get(i, "attribute");
    return x.undefined() ? Json() : x.j();
  };
  Value kept;  // what is iterated over
  auto needs_list = [&]() -> const Value& { return kept = items_of(n, v); };
  if (f == "length" || f == "count") {
    if (is_number(v.j()) || v.j().is_null()) bad(n, "{} has no length", v.j().type_name());
    out = v.j().is_string() ? Json(chars_before(v.j().get_ref<const std::string&>(),
                                                v.j().get_ref<const std::string&>().size()))
                            : Json(int64_t(needs_list().j().size()));
  } else if (f == "list") {
    out = needs_list();
  } else if (f == "items") {
    if (v.undefined()) return out = Json::array(), true;
    if (!v.j().is_object()) bad(n, "'items' needs a mapping, not {}", v.j().type_name());
    out = method(n, "items", v, a);
  } else if (f == "first" || f == "last") {
    const Value list = needs_list();
    if (!list.j().empty()) out = Value(list, f == "first" ? list.j().front() : list.j().back());
  } else if (f == "reverse") {
    Json x = needs_list().j();
    std::reverse(x.begin(), x.end());
    if (v.j().is_string()) {
      std::string s;
      for (auto& c : x) s += c.get_ref<const std::string&>();
      x = s;
    }
    out = x;
  } else if (f == "join") {
    const Value d = a.get(0, "d");
    const std::string sep = d.undefined() ? "" : text(d.j());
    const Json by = attribute(1);
    std::string s;
    bool first = true;
    for (auto& e : needs_list().j()) {
      s += (first ? "" : sep) + text(by.is_null() ? e : member(e, text(by)));
      first = false;
      if (s.size() > kMaxOutput) bad(n, "string too long");
    }
    out = Json(std::move(s));
  } else if (f == "sum") {
    const Json by = attribute(0);
    Value total = a.get(1, "start");
    if (total.undefined()) total = Json(0);
    Node plus;
    plus.line = n.line, plus.name = "+";
    for (auto& e : needs_list().j())
      total = binary(plus, total.j(), by.is_null() ? e : member(e, text(by)));
    out = total;
  } else if (f == "sort") {
    const bool reverse = flag(0, "reverse"), exact = flag(1, "case_sensitive");
    const Value list = needs_list();
    out = sorted(n, list.j(), sort_keys(n, list.j(), attribute(2), exact), reverse);
  } else if (f == "dictsort") {
    if (!v.j().is_object()) bad(n, "'dictsort' needs a mapping, not {}", v.j().type_name());
    const bool exact = flag(0, "case_sensitive");
    const Value named = a.get(1, "by");
    const std::string by = named.undefined() ? "key" : text(named.j());
    const bool reverse = flag(2, "reverse");
    if (by != "key" && by != "value") bad(n, "dictsort by '{}', allowed: key, value", by);
    Arguments none;
    const Value pairs = method(n, "items", v, none);
    out = sorted(n, pairs.j(), sort_keys(n, pairs.j(), by == "key" ? "0" : "1", exact), reverse);
  } else if (f == "min" || f == "max" || f == "unique") {
    const bool exact = flag(0, "case_sensitive");
    const Json by = attribute(1);
    const Value list = needs_list();
    const Json& all = list.j();
    const std::vector<Json> keys = sort_keys(n, all, by, exact);
    Json once = Json::array();
    std::set<std::string> seen;
    size_t best = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      if (f == "unique") {
        const bool whole = is_number(keys[i]);  // 1, 1.0 and true are one
        if (seen.insert(whole ? real(as_double(keys[i])) : text(keys[i], true)).second)
          once.push_back(all[i]);
      } else if (f == "min" ? less(n, keys[i], keys[best]) : less(n, keys[best], keys[i])) {
        best = i;
      }
    }
    if (f == "unique")
      out = once;
    else if (!all.empty())
      out = Value(list, all[best]);
  } else if (f == "groupby") {
    const Json by = attribute(0);
    const Value otherwise = a.get(1, "default");
    const bool exact = flag(2, "case_sensitive");
    if (by.is_null()) bad(n, "'groupby' needs an attribute");
    if (!otherwise.undefined()) bad(n, "'groupby' with a default is not there");
    const Value list = needs_list();
    Json groups = Json::array();
    for (auto& e : sorted(n, list.j(), sort_keys(n, list.j(), by, exact), false)) {
      Json one = Json::array({e}), key = sort_keys(n, one, by, exact)[0];
      if (groups.empty() || !equal(key, groups.back()[2]))
        groups.push_back(Json::array({sort_keys(n, one, by, true)[0], Json::array(), key}));
      groups.back()[1].push_back(e);
    }
    for (auto& g : groups) g.erase(2);
    out = groups;
  } else if (f == "batch" || f == "slice") {
    const int64_t count = whole(n, a.get(0, f == "batch" ? "linecount" : "slices"));
    const Value fill = a.get(1, "fill_with");
    if (count < 1 || count > 1 << 20) bad(n, "{} of {}", f, count);
    const Value list = needs_list();
    const int64_t size = int64_t(list.j().size()), each = size / count, more = size % count;
    Json groups = Json::array();
    int64_t at = 0;
    for (int64_t i = 0; f == "batch" ? at < size : i < count; ++i) {
      Json g = Json::array();
      const int64_t want = f == "batch" ? count : each + (i < more);
      step(n, want + 1);
      for (int64_t k = 0; k < want && at < size; ++k) g.push_back(list.j()[size_t(at++)]);
      const bool pads = !fill.undefined() && !fill.j().is_null();
      if (pads && f == "batch")
        while (int64_t(g.size()) < count) g.push_back(fill.j());
      if (pads && f == "slice" && i >= more) g.push_back(fill.j());
      groups.push_back(std::move(g));
    }
    out = groups;
  } else if (f == "attr") {
    const Value name = a.get(0, "name");
    if (v.ns && v.ns->count(str(n, name))) out = (*v.ns)[str(n, name)];
  } else if (f == "map" || f == "selectattr" || f == "rejectattr" || f == "select" ||
             f == "reject") {
    out = choose(n, f, v, a);
  } else {
    return false;
  }
  return true;
}

// What elements are compared by: the attribute (several: "a,b") or the element, letters in lower
// case unless `exact`.
std::vector<Json> Eval::sort_keys(const Node& n, const Json& items, const Json& attribute,
                                  bool exact) {
  std::vector<Json> keys;
  auto folded = [&](const Json& v) {
    return v.is_string() && !exact ? Json(change_case(v.get_ref<const std::string&>(), "lower"))
                                   : v;
  };
  std::string path = attribute.is_null() ? "" : text(attribute);
  for (auto& e : items) {
    charge(n, e);
    if (attribute.is_null()) {
      keys.push_back(folded(e));
      continue;
    }
    Json parts = Json::array();
    for (size_t i = 0; i <= path.size();) {
      size_t comma = std::min(path.find(',', i), path.size());
      parts.push_back(folded(member(e, path.substr(i, comma - i))));
      i = comma + 1;
    }
    keys.push_back(parts.size() == 1 ? Json(parts[0]) : parts);
  }
  return keys;
}

// Stable, also in reverse.
Json Eval::sorted(const Node& n, const Json& items, const std::vector<Json>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    step(n);
    return reverse ? less(n, keys[b], keys[a]) : less(n, keys[a], keys[b]);
  });
  Json out = Json::array();
  for (size_t i : order) out.push_back(items[i]);
  return out;
}

// map, select, reject, selectattr, rejectattr; what follows the name of a filter or test are its
// arguments.
Value Eval::choose(const Node& n, const std::string& f, const Value& v, Arguments& a) {
  const Value list = items_of(n, v);
  Json o = Json::array();
  auto rest_from = [&](size_t first) {
    Arguments rest;
    for (size_t i = 0; i < a.at.size(); ++i) {
      a.get(i, "");
      if (i >= first) rest.at.push_back(a.at[i]);
    }
    for (auto& [k, x] : a.named) {
      a.get(Arguments::kNamedOnly, k);
      rest.named.emplace_back(k, x);
    }
    return rest;
  };
  if (f == "map" && a.at.empty()) {
    const Value by = a.get(0, "attribute"), otherwise = a.get(1, "default");
    if (by.undefined()) bad(n, "'map' needs a filter or an attribute");
    const std::string path = text(by.j());
    for (auto& e : list.j()) {
      const Json& found = member(e, path);
      charge(n, found);
      o.push_back(found.is_discarded() ? otherwise.j() : found);
    }
    return o;
  }
  const bool attr = f.ends_with("attr");
  const std::string first = a.at.empty() ? "" : text(a.at[0].j());
  if (attr && a.at.empty()) bad(n, "'{}' needs an attribute", f);
  const size_t named_at = attr ? 1 : 0;  // where the name of the filter or test is
  const bool has_test = a.at.size() > named_at;
  const std::string name = has_test ? text(a.at[named_at].j()) : "";
  const Arguments rest = rest_from(named_at + 1);
  for (auto& e : list.j()) {
    const Value item(list, e);
    Arguments mine = rest;
    if (f == "map") {
      const Value mapped = filter(n, name, item, mine);
      charge(n, mapped.j());
      o.push_back(mapped.j());
      continue;
    }
    const Json& found = attr ? member(e, first) : e;
    const Value what = found.is_discarded() ? Value() : Value(list, found);
    const bool ok = has_test ? test(n, name, what, mine) : truth(what);
    charge(n, e);
    if (ok == f.starts_with("select")) o.push_back(e);
  }
  return o;
}

}  // namespace sutor::jinja
