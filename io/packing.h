#pragma once
// Examples laid into rows of a fixed length.

#include <cstdint>
#include <vector>

namespace sutor {

struct Example {
  std::vector<int32_t> ids, labels;  // labels at the same positions; -100 = not trained
  int64_t row = 0;  // other than 0: the number of a ready row, taken as it is, nothing beside it
};

struct PackedRow {
  std::vector<int32_t> ids, labels;
  std::vector<int32_t> start;  // first token of each token's document, within the row
};

// In all three a ready row (Example::row) becomes a row of its own; one longer than seq is an
// error.

// Whole examples side by side, each a document of its own (no attention across, positions from 0);
// first row with room, in file order, among the last few open ones. Longer examples lose their end;
// `truncated` counts them.
std::vector<PackedRow> pack_documents(const std::vector<Example>& examples, int64_t seq,
                                      int64_t& truncated);

// One example per row, cut to seq, not padded.
std::vector<PackedRow> pack_none(const std::vector<Example>& examples, int64_t seq,
                                 int64_t& truncated);

// The ESFT authors' packing (get_examples_from_buffer_pad): one stream, tokens cut off on the left
// of the sample that no longer fits, the first token of a joined sample dropped with probability
// 0.2, rows padded with `pad`, one attention window per row. The coin is Python's
// random.seed(seed); random.random(). `truncated` counts the samples that were cut.
std::vector<PackedRow> pack_esft_compat(const std::vector<Example>& examples, int64_t seq,
                                        int32_t pad, uint64_t seed, int64_t& truncated);

// CPython's random module: MT19937 seeded by init_by_array, 53-bit doubles.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);
  double random();

 private:
  uint32_t next();
  uint32_t state_[624];
  int at_ = 624;
};

}  // namespace sutor
