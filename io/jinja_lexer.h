#pragma once
// Template text to tokens; whitespace control is settled here.

#include <string>
#include <string_view>
#include <vector>

namespace sutor::jinja {

enum class Tok {
  kText,
  kBlockBegin,
  kBlockEnd,
  kVarBegin,
  kVarEnd,
  kName,
  kString,
  kInt,
  kFloat,
  kOp,
  kEnd
};
struct Token {
  Tok kind;
  std::string text;
  int line;
};
std::vector<Token> lex(std::string_view source);

}  // namespace sutor::jinja
