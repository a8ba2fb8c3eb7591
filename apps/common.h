#pragma once
// What most commands begin with: the model with its adapters, and small output helpers.

#include <memory>
#include <optional>

#include "apps/args.h"
#include "io/json.h"
#include "model/checkpoint.h"

namespace sutor {

// MODEL positional, --adapter (repeatable), and the common options.
void declare_model(Args& a, bool optional = false);
// `replaced`, if given, learns which tensors came from which ESFT adapter.
std::unique_ptr<Model> open_model(const Args& a, Replaced* replaced = nullptr);
// --weights, of commands that read them again and again; and what it says, for a run that will pass
// through the model up to `passes` times: auto copies what does not train into huge pages where
// that pays and fits (`room`, if given: bytes that the run leaves for it; else half of what is
// there).
void declare_weights(Args& a);
void place_weights(const Args& a, Model& model, int64_t passes, std::optional<int64_t> room = {});
void print_notices(const Args& a, const Model& model);  // on stderr, unless --quiet
void print_json(const Json& j);
// For --out: the folder replaces what stood there, so only nothing, an empty folder or a model
// folder may stand there; and its parent must be writable.
void check_model_folder_to_be(const std::string& out);
// Throws when `out` is one of the files that are read (empty names: not given).
void check_not_an_input(const std::string& out, std::initializer_list<std::string> inputs);

// Seconds since the first call's construction.
class Stopwatch {
 public:
  double seconds() const;

 private:
  int64_t begin_ = now();
  static int64_t now();
};

int64_t peak_bytes();  // VmHWM: the most resident memory this process has had

}  // namespace sutor
