#pragma once
// Where the parser stands in its tokens: what the next one is, taking it, errors that name its
// line, and new nodes of that line. Base of io/jinja_parser.cpp alone.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "io/jinja_lexer.h"
#include "io/jinja_parser.h"

namespace sutor::jinja {

class Cursor {
 protected:
  explicit Cursor(std::vector<Token> t) : t_(std::move(t)) {}

  const Token& cur() const { return t_[at_]; }
  [[noreturn]] void bad(const char* what) const {
    fail("template line {}: {} at '{}'", cur().line, what, cur().text);
  }
  bool is(const char* s) const {
    return (cur().kind == Tok::kOp || cur().kind == Tok::kName) && cur().text == s;
  }
  bool take(const char* s) { return is(s) ? (++at_, true) : false; }
  void want(const char* s) {
    if (!take(s)) fail("template line {}: '{}' found, allowed: '{}'", cur().line, cur().text, s);
  }
  void want(Tok k) {
    if (cur().kind != k) bad("unexpected token");
    ++at_;
  }
  std::string ident() {
    if (cur().kind != Tok::kName) bad("a name is missing");
    return t_[at_++].text;
  }
  NodePtr node(const char* op, std::string name = "") const {
    auto n = std::make_unique<Node>();
    n->op = op, n->name = std::move(name), n->line = cur().line;
    return n;
  }
  NodePtr join(const char* op, std::string name, NodePtr a, NodePtr b = nullptr) const {
    auto n = node(op, std::move(name));
    n->kids.push_back(std::move(a));
    if (b) n->kids.push_back(std::move(b));
    return n;
  }

  std::vector<Token> t_;
  size_t at_ = 0;
};

}  // namespace sutor::jinja
