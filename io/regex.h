#pragma once
// Python-flavoured regular expressions of files we do not trust (PEFT's target_modules,
// rank_pattern): Oniguruma with a limit on backtracking, so that a hostile pattern is an error and
// no hang.

#include <memory>
#include <string>
#include <string_view>

namespace sutor {

void init_oniguruma();  // once, before its first use; io/tokenizer_normalize.cpp has patterns too

class Regex {
 public:
  // `where` names file and key in errors.
  Regex(const std::string& pattern, const std::string& where);
  bool full_match(std::string_view text) const;           // as re.fullmatch
  std::string group(std::string_view text, int n) const;  // of a full match; empty: none

 private:
  std::shared_ptr<void> regex_;
  std::string where_;
};

}  // namespace sutor
