#pragma once
// The resumable state of a run, checkpoint-N: fp32 masters (bf16 values and the 16 bits beyond them
// under adamw8bit) and AdamW moments of what trains, and the step. Each rank writes the elements
// that it updates; the manifest says which file has which elements of a tensor, with XXH3 of each
// piece, so any number of ranks can read what any other number wrote.
//
//   state.json                          step, run, files, tensors: dtype, shape, pieces
//   state.safetensors                   one rank's; of several state-00001-of-00004.safetensors ...
//
// The folder is written aside and renamed when every rank's file is on the disk.
// Test: tests/ranks.cpp, tests/kill.cpp.

#include <optional>
#include <string>
#include <thread>

#include "engine/ranks.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors_writer.h"
#include "model/model.h"

namespace sutor {

// Writes beside the next step's forward and backward passes, from the state itself: finish() before
// the state changes. Nothing is copied.
class StateWriter {
 public:
  // `run` identifies data and settings; `more` goes into state.json as it is.
  StateWriter(const std::string& dir, Model& model, int64_t step, const std::string& run,
              const Json& more, const Ranks& ranks, bool background);
  ~StateWriter();
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;
  // Every rank; throws on all of them when one could not write, and then nothing is left.
  void finish();
  const std::string& dir() const { return dir_; }

 private:
  void write();

  std::string dir_, folder_, file_;
  Ranks ranks_;
  Json manifest_;  // of all, but for the pieces
  std::vector<std::pair<std::string, Tensor>> tensors_;
  std::vector<int64_t> begin_;  // of tensor i: its first element here
  std::vector<std::string> hash_;
  std::optional<AtomicFolder> aside_;  // the lead's
  std::string error_;
  std::thread thread_;
};

void write_state(const std::string& dir, Model& model, int64_t step, const std::string& run);
// What this rank needs of it; returns the step. Throws when the run is another one, or a piece is
// missing or damaged.
int64_t read_state(const std::string& dir, Model& model, const std::string& run);

// A tensor of a checkpoint, put together; no checksums are read.
class StateFile {
 public:
  explicit StateFile(const std::string& dir);
  const Json& json() const { return json_; }
  std::vector<std::string> names() const;
  bool has(const std::string& name) const;
  DType dtype(const std::string& name) const;
  Shape shape(const std::string& name) const;
  Tensor tensor(const std::string& name) const;
  // fn(elements begin .. end of the tensor, as a vector) for every piece that has some of lo..hi;
  // checks the piece's XXH3 first if `verify`.
  void pieces(const std::string& name, int64_t lo, int64_t hi, bool verify,
              const std::function<void(const Tensor&, int64_t begin)>& fn) const;
  void verify() const;  // every piece of every tensor

 private:
  std::string dir_;
  Json json_;
  std::vector<std::shared_ptr<class SafetensorsFile>> files_;
};

// Which of two runs' "key=value" lines differ, by key.
std::string differing_keys(const std::string& a, const std::string& b);

bool is_run_state(const std::string& dir);  // the manifest is there, and every file that it needs

// The newest complete checkpoint-N in a run folder; empty when there is none. `torn`, if given,
// becomes a newer one that lacks a file.
std::string newest_checkpoint(const std::string& run_dir, std::string* torn = nullptr);
// Removes the oldest complete checkpoints until `keep` (1 or more) are left. `best`: and the one
// with the lowest eval_loss beside them.
void keep_newest_checkpoints(const std::string& run_dir, int64_t keep, bool best = false);

}  // namespace sutor
