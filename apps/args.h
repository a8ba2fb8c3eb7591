#pragma once
// Options of a command: declared once, and that one list drives parsing, --help, --config
// FILE.yaml, --dump-config.

#include <cstdio>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/backend.h"

namespace sutor {

// Wrong usage: exit code 2.
struct UsageError : Error {
  using Error::Error;
};

// This thread is a rank whose notices another one gives.
inline thread_local bool quiet_rank = false;

// A line for people on stderr. Unlike fmt::print it never throws: a full or closed stderr must not
// end the work.
template <class... A>
void note(fmt::format_string<A...> f, A&&... a) {
  if (quiet_rank) return;
  std::fputs(fmt::format(f, std::forward<A>(a)...).c_str(), stderr);
}

class Args {
 public:
  enum class Kind { kString, kInt, kReal, kFlag, kChoice, kList };

  Args(std::string command, std::string summary, std::string example);

  // Declaration. Every option has a default shown by --help; an empty default of a string means
  // "not given".
  void positional(const char* name, const char* help, bool optional = false);
  void positionals(const char* name,
                   const char* help);  // the last one: any number of values, read by all()
  void string(const char* name, const char* help, std::string fallback = "");
  void integer(const char* name, const char* help, int64_t fallback, int64_t lo, int64_t hi);
  void real(const char* name, const char* help, double fallback, double lo, double hi);
  void flag(const char* name, const char* help);
  void choice(const char* name, const char* help, std::string fallback,
              std::vector<std::string> allowed);
  void list(const char* name, const char* help);  // repeatable
  void no_default(const char* name);              // of the last declarations: it has to be given
  // The default of an option that is not given, worked out from the others once they are known.
  // `shown`, if given, stands for it in --help.
  void derive(const char* name, std::function<std::string(const Args&)> value,
              std::string shown = "");
  void common();  // --device --dtype --threads --seed --verbose --quiet --json

  // Returns false when --help or --dump-config was asked for and has been printed.
  bool parse(int argc, char** argv);

  const std::string& str(const std::string& name) const;
  int64_t num(const std::string& name) const;
  double real(const std::string& name) const;
  bool on(const std::string& name) const;
  const std::vector<std::string>& all(const std::string& name) const;
  bool declares(const std::string& name) const { return options_.count(name) != 0; }
  bool given(const std::string& name) const { return given_.count(name) != 0; }
  const std::string& required(const std::string& name) const;  // usage error when not given

  // An option that would do nothing here is an error, not a silence.
  void no_effect_unless(bool condition, const std::string& name, const std::string& why) const;

  Ctx context() const;       // sets threads, chooses device and dtype
  std::string yaml() const;  // the effective configuration

 private:
  struct Option {
    Kind kind;
    std::string help, text, fallback, shown;
    std::vector<std::string> values, allowed;
    double lo = 0, hi = 0;
    bool positional = false, optional = false, from_file = false;
    std::function<std::string(const Args&)> derived;
  };
  Option& declare(const char* name, Kind kind, const char* help, std::string fallback);
  const Option& at(const std::string& name) const;
  void set(const std::string& name, const std::string& value, const std::string& where);
  void read_yaml(const std::string& file);
  std::string usage() const;

  std::string command_, summary_, example_;
  std::vector<std::string> order_, positionals_;
  std::map<std::string, Option> options_;
  std::set<std::string> given_;
};

}  // namespace sutor
