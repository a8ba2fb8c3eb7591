// Tokens to a tree, by recursive descent with jinja2's precedences: or, and, not, comparisons, + -,
// ~, * / // %, **, unary, then postfix, filters and tests. Depth is capped. Test: tests/jinja.cpp.

#include "io/jinja_parser.h"

#include <utility>

#include "io/jinja_cursor.h"

namespace sutor::jinja {
namespace {

class Parser : Cursor {
 public:
  explicit Parser(std::vector<Token> t) : Cursor(std::move(t)) {}
  std::vector<NodePtr> all() {
    auto out = body({});
    if (cur().kind != Tok::kEnd) bad("block tag without a beginning");
    return out;
  }

 private:
  std::vector<NodePtr> body(std::initializer_list<const char*> ends) {
    if (++depth_ > 100) bad("blocks nested deeper than 100");
    std::vector<NodePtr> out;
    for (;;) {
      if (cur().kind == Tok::kText) {
        auto n = node("text", cur().text);
        ++at_, out.push_back(std::move(n));
      } else if (cur().kind == Tok::kVarBegin) {
        ++at_;
        out.push_back(join("print", "", tuple()));
        want(Tok::kVarEnd);
      } else if (cur().kind == Tok::kBlockBegin) {
        for (auto e : ends)
          if (t_[at_ + 1].text == e) return --depth_, ++at_, std::move(out);
        ++at_;
        out.push_back(statement());
        want(Tok::kBlockEnd);
      } else {
        if (ends.size() > 0) bad("a block is not closed");
        return --depth_, std::move(out);
      }
    }
  }
  NodePtr if_rest() {
    auto n = join("if", "", expr());
    want(Tok::kBlockEnd);
    n->body = body({"elif", "else", "endif"});
    if (take("elif")) {
      n->orelse.push_back(if_rest());
    } else if (take("else")) {
      want(Tok::kBlockEnd);
      n->orelse = body({"endif"});
      want("endif");
    } else {
      want("endif");
    }
    return n;
  }
  NodePtr statement() {
    if (take("if")) return if_rest();
    if (take("for")) {
      auto n = node("for");
      const bool parens = take("(");
      do n->names.push_back(ident());
      while (take(","));
      if (parens) want(")");
      want("in");
      n->kids.push_back(orx());
      n->kids.push_back(take("if") ? expr() : nullptr);
      want(Tok::kBlockEnd);
      ++loops_;
      n->body = body({"else", "endfor"});
      --loops_;
      if (take("else")) want(Tok::kBlockEnd), n->orelse = body({"endfor"});
      want("endfor");
      return n;
    }
    if (take("set")) {
      auto n = node("set");
      n->names.push_back(ident());
      if (take(".")) n->name = ident();
      while (take(",")) n->names.push_back(ident());
      if (take("=")) return n->kids.push_back(tuple()), std::move(n);
      n->op = "set block";
      n->kids.push_back(filters_of_body());
      n->body = body({"endset"});
      want("endset");
      return n;
    }
    if (is("filter")) {
      t_[at_] = {Tok::kOp, "|", cur().line};  // from here it reads like filters of an expression
      auto n = node("filter block");
      n->kids.push_back(filters_of_body());
      n->body = body({"endfilter"});
      want("endfilter");
      return n;
    }
    if (take("with")) {
      auto n = node("with");
      while (cur().kind == Tok::kName) {
        auto name = ident();
        want("=");
        n->kwargs.emplace_back(name, expr());
        if (!take(",")) break;
      }
      want(Tok::kBlockEnd);
      n->body = body({"endwith"});
      want("endwith");
      return n;
    }
    if (take("call")) {
      auto n = node("call block", "caller");
      if (is("(")) parameters(*n);
      n->kids.push_back(expr());
      if (n->kids[0]->op != "call") bad("a call block needs a call");
      want(Tok::kBlockEnd);
      n->body = own_body("endcall");
      want("endcall");
      return n;
    }
    if (take("macro")) {
      auto n = node("macro", ident());
      parameters(*n);
      want(Tok::kBlockEnd);
      const size_t begin = at_;
      n->body = own_body("endmacro");
      for (size_t i = begin; i < at_; ++i)  // it takes more arguments than it names
        if (t_[i].kind == Tok::kName && (t_[i].text == "varargs" || t_[i].text == "kwargs"))
          n->names.push_back(t_[i].text);
      want("endmacro");
      return n;
    }
    if (take("generation")) {
      auto n = node("generation");
      want(Tok::kBlockEnd);
      n->body = own_body("endgeneration");
      want("endgeneration");
      return n;
    }
    for (const char* tag : {"break", "continue"})
      if (is(tag)) {
        if (loops_ == 0) bad("outside a loop:");
        ++at_;
        return node(tag);
      }
    bad("unknown block tag");
  }
  void parameters(Node& n) {  // of a macro or a call block
    for (want("("); !take(")");) {
      auto p = ident();
      n.kwargs.emplace_back(p, take("=") ? expr() : nullptr);
      if (!is(")")) want(",");
    }
  }
  // A body that is a function in jinja2: break and continue do not reach out of it.
  std::vector<NodePtr> own_body(const char* end) {
    const int loops = std::exchange(loops_, 0);
    auto out = body({end});
    loops_ = loops;
    return out;
  }
  // Filters that a block's text goes through, up to the tag's end; null: none.
  NodePtr filters_of_body() {
    NodePtr a;
    if (is("|")) a = filtered(node("body"));
    want(Tok::kBlockEnd);
    return a;
  }

  NodePtr tuple() {
    auto a = expr();
    if (!is(",")) return a;
    auto n = join("list", "", std::move(a));
    while (take(",")) n->kids.push_back(expr());
    return n;
  }
  NodePtr expr() {
    if (++depth_ > 100) bad("expression nested deeper than 100");
    auto a = orx();
    while (take("if")) {
      auto n = join("ifexpr", "", std::move(a), orx());
      n->kids.push_back(take("else") ? expr() : nullptr);
      a = std::move(n);
    }
    --depth_;
    return a;
  }
  NodePtr orx() {
    auto a = andx();
    while (take("or")) a = join("or", "", std::move(a), andx());
    return a;
  }
  NodePtr andx() {
    auto a = notx();
    while (take("and")) a = join("and", "", std::move(a), notx());
    return a;
  }
  NodePtr notx() {
    if (!take("not")) return compare();
    if (++depth_ > 100) bad("expression nested deeper than 100");
    auto n = join("not", "", notx());
    return --depth_, std::move(n);
  }
  NodePtr compare() {
    auto n = join("compare", "", arith(0));
    for (;;) {
      std::string op = cur().text;
      if (is("not") && t_[at_ + 1].text == "in")
        at_ += 2, op = "not in";
      else if (is("==") || is("!=") || is("<") || is("<=") || is(">") || is(">=") || is("in"))
        ++at_;
      else
        break;
      n->names.push_back(op), n->kids.push_back(arith(0));
    }
    return n->names.empty() ? std::move(n->kids[0]) : std::move(n);
  }
  NodePtr arith(int level) {  // + - | ~ | * / // % | unary
    static const std::vector<std::vector<const char*>> kOps = {
        {"+", "-"}, {"~"}, {"*", "/", "//", "%"}};
    if (level == 3) return power();
    auto a = arith(level + 1);
    for (bool more = true; more;) {
      more = false;
      for (auto op : kOps[size_t(level)])
        if (take(op)) a = join("binary", op, std::move(a), arith(level + 1)), more = true;
    }
    return a;
  }
  NodePtr power() {  // from left to right, as jinja2 has it
    auto a = unary(true);
    while (take("**")) a = join("binary", "**", std::move(a), unary(true));
    return a;
  }
  NodePtr unary(bool filters) {
    NodePtr a;
    if (is("-") || is("+")) {
      if (++depth_ > 100) bad("expression nested deeper than 100");
      const std::string op = t_[at_++].text;
      a = join("unary", op, unary(false));
      --depth_;
      a = postfix(std::move(a));
    } else {
      a = postfix(primary());
    }
    return filters ? filtered(std::move(a)) : std::move(a);
  }
  NodePtr filtered(NodePtr a) {
    for (;;) {
      if (take("|")) {
        auto n = join("filter", ident(), std::move(a));
        if (take("(")) args(*n);
        a = std::move(n);
      } else if (take("is")) {
        const bool negate = take("not");
        auto n = join("test", ident(), std::move(a));
        const Token& t = cur();
        if (take("("))
          args(*n);
        else if (t.kind == Tok::kString || t.kind == Tok::kInt || t.kind == Tok::kFloat ||
                 is("[") || is("{") ||
                 (t.kind == Tok::kName && !is("and") && !is("or") && !is("else") && !is("if") &&
                  !is("is") && !is("in") && !is("not")))
          n->kids.push_back(postfix(primary()));
        a = negate ? join("not", "", std::move(n)) : std::move(n);
      } else if (is("(")) {  // what a filter gives may be called
        ++at_;
        a = join("call", "", std::move(a));
        args(*a);
      } else {
        return a;
      }
    }
  }
  void args(Node& n) {
    while (!take(")")) {
      if (cur().kind == Tok::kName && t_[at_ + 1].kind == Tok::kOp && t_[at_ + 1].text == "=") {
        auto k = ident();
        want("=");
        n.kwargs.emplace_back(k, expr());
      } else {
        n.kids.push_back(expr());
      }
      if (!is(")")) want(",");
    }
  }
  NodePtr postfix(NodePtr a) {
    for (;;) {
      if (take(".")) {
        if (cur().kind == Tok::kInt) {
          auto i = node("const");
          i->value = std::stoll(t_[at_++].text);
          a = join("index", "", std::move(a), std::move(i));
        } else {
          a = join("attr", ident(), std::move(a));
        }
      } else if (take("[")) {
        NodePtr part[3];
        int n = 0;
        if (!is(":")) part[0] = expr();
        while (n < 2 && take(":")) {
          ++n;
          if (!is(":") && !is("]")) part[n] = expr();
        }
        want("]");
        if (n == 0) {
          a = join("index", "", std::move(a), std::move(part[0]));
        } else {
          a = join("slice", "", std::move(a));
          for (auto& p : part) a->kids.push_back(std::move(p));
        }
      } else if (take("(")) {
        a = join("call", "", std::move(a));
        args(*a);
      } else {
        return a;
      }
    }
  }
  NodePtr primary() {
    const Token t = cur();
    ++at_;
    auto n = node("const");
    n->line = t.line;
    if (t.kind == Tok::kString) {
      std::string s = t.text;
      while (cur().kind == Tok::kString) s += t_[at_++].text;
      n->value = s;
    } else if (t.kind == Tok::kInt || t.kind == Tok::kFloat) {
      check(t.text.size() < 19, "template line {}: number '{}' is too long", t.line, t.text);
      if (t.kind == Tok::kInt)
        n->value = int64_t(std::stoll(t.text));
      else
        n->value = std::stod(t.text);
    } else if (t.kind == Tok::kName) {
      if (t.text == "true" || t.text == "True")
        n->value = true;
      else if (t.text == "false" || t.text == "False")
        n->value = false;
      else if (t.text != "none" && t.text != "None")
        n->op = "name", n->name = t.text;
    } else if (t.kind == Tok::kOp && t.text == "(") {
      if (take(")")) return n->op = "list", std::move(n);
      n = expr();
      if (is(",")) {
        n = join("list", "", std::move(n));
        while (take(","))
          if (!is(")")) n->kids.push_back(expr());
      }
      want(")");
    } else if (t.kind == Tok::kOp && t.text == "[") {
      n->op = "list";
      while (!take("]")) {
        n->kids.push_back(expr());
        if (!is("]")) want(",");
      }
    } else if (t.kind == Tok::kOp && t.text == "{") {
      n->op = "dict";
      while (!take("}")) {
        n->kids.push_back(expr());
        want(":");
        n->kids.push_back(expr());
        if (!is("}")) want(",");
      }
    } else {
      --at_;
      bad("an expression is missing");
    }
    return n;
  }

  int depth_ = 0, loops_ = 0;
};

}  // namespace

std::vector<NodePtr> parse(std::string_view source) { return Parser(lex(source)).all(); }

}  // namespace sutor::jinja
