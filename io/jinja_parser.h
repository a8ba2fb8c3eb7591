#pragma once
// Tokens to a tree. One node type serves expressions and statements; `op` says which.

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace sutor::jinja {

struct Node;
using NodePtr = std::unique_ptr<Node>;
struct Node {
  std::string op;    // expression or statement kind
  std::string name;  // variable, attribute, filter, test or operator
  nlohmann::ordered_json value;
  std::vector<NodePtr> kids;                            // null where a part is left out
  std::vector<std::pair<std::string, NodePtr>> kwargs;  // keyword arguments, macro parameters
  std::vector<std::string> names;                       // for/set targets
  std::vector<NodePtr> body, orelse;
  int line = 0;
};

std::vector<NodePtr> parse(std::string_view source);

}  // namespace sutor::jinja
