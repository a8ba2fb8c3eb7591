// Examples into rows of at most `seq` tokens: whole documents side by side, one example a row, or
// the ESFT authors' stream cut into blocks (their utils.py). Test: tests/data.cpp, token for token.

#include "io/packing.h"

#include <algorithm>

#include "engine/error.h"

namespace sutor {
namespace {

void append(PackedRow& row, const int32_t* ids, const int32_t* labels, int64_t n) {
  int32_t first = static_cast<int32_t>(row.ids.size());
  row.ids.insert(row.ids.end(), ids, ids + n);
  row.labels.insert(row.labels.end(), labels, labels + n);
  row.start.insert(row.start.end(), static_cast<size_t>(n), first);
}

PackedRow ready(const Example& e, int64_t seq) {
  check(static_cast<int64_t>(e.ids.size()) <= seq,
        "row {}: {} input_ids, which are taken as they are: more than a row's {} (--seq)", e.row,
        e.ids.size(), seq);
  PackedRow row;
  append(row, e.ids.data(), e.labels.data(), static_cast<int64_t>(e.ids.size()));
  return row;
}

}  // namespace

std::vector<PackedRow> pack_documents(const std::vector<Example>& examples, int64_t seq,
                                      int64_t& truncated) {
  constexpr size_t kOpen = 16;
  std::vector<PackedRow> rows;
  std::vector<char> closed;  // a ready row: nothing beside it
  size_t oldest = 0;
  for (const Example& e : examples) {
    if (e.row != 0) {
      rows.push_back(ready(e, seq));
      closed.push_back(true);
      continue;
    }
    int64_t n = std::min<int64_t>(static_cast<int64_t>(e.ids.size()), seq);
    truncated += n < static_cast<int64_t>(e.ids.size());
    size_t r = oldest;
    while (r < rows.size() &&
           (closed[r] != 0 || static_cast<int64_t>(rows[r].ids.size()) + n > seq))
      ++r;
    if (r == rows.size()) {
      rows.emplace_back();
      closed.push_back(false);
    }
    append(rows[r], e.ids.data(), e.labels.data(), n);
    if (rows.size() - oldest > kOpen) ++oldest;
  }
  return rows;
}

std::vector<PackedRow> pack_none(const std::vector<Example>& examples, int64_t seq,
                                 int64_t& truncated) {
  std::vector<PackedRow> rows;
  for (const Example& e : examples) {
    if (e.row != 0) {
      rows.push_back(ready(e, seq));
      continue;
    }
    int64_t n = std::min<int64_t>(static_cast<int64_t>(e.ids.size()), seq);
    truncated += n < static_cast<int64_t>(e.ids.size());
    append(rows.emplace_back(), e.ids.data(), e.labels.data(), n);
  }
  return rows;
}

std::vector<PackedRow> pack_esft_compat(const std::vector<Example>& examples, int64_t seq,
                                        int32_t pad, uint64_t seed, int64_t& truncated) {
  PythonRandom coin(seed);
  std::vector<PackedRow> rows;
  PackedRow row;
  auto flush = [&] {
    row.ids.resize(static_cast<size_t>(seq), pad);
    row.labels.resize(static_cast<size_t>(seq), -100);
    row.start.assign(static_cast<size_t>(seq), 0);
    // A row of padding alone has no loss; the authors' code divides by zero there.
    if (std::any_of(row.labels.begin() + 1, row.labels.end(), [](int32_t l) { return l != -100; }))
      rows.push_back(std::move(row));
    row = {};
  };
  for (const Example& e : examples) {
    if (e.row != 0) {
      rows.push_back(ready(e, seq));
      continue;
    }
    int64_t room = seq - static_cast<int64_t>(row.ids.size());
    int64_t n = std::min<int64_t>(static_cast<int64_t>(e.ids.size()), room),
            skip = static_cast<int64_t>(e.ids.size()) - n;
    truncated += skip > 0;
    // The sample is cut to the room first; then the coin may take its first token (esft-rules: the
    // row stays one short).
    if (!row.ids.empty() && coin.random() < 0.2 && n > 0) {
      ++skip;
      --n;
    }
    append(row, e.ids.data() + skip, e.labels.data() + skip, n);
    if (static_cast<int64_t>(row.ids.size()) >= seq) flush();
  }
  if (!row.ids.empty()) flush();
  return rows;
}

PythonRandom::PythonRandom(uint64_t seed) {
  state_[0] = 19650218u;
  for (int i = 1; i < 624; ++i)
    state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + static_cast<uint32_t>(i);
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  int length = key[1] != 0 ? 2 : 1, i = 1, j = 0;
  for (int k = 624; k > 0; --k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u)) + key[j] +
                static_cast<uint32_t>(j);
    if (++i == 624) state_[0] = state_[623], i = 1;
    if (++j == length) j = 0;
  }
  for (int k = 623; k > 0; --k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u)) -
                static_cast<uint32_t>(i);
    if (++i == 624) state_[0] = state_[623], i = 1;
  }
  state_[0] = 0x80000000u;
}

uint32_t PythonRandom::next() {
  if (at_ == 624) {
    for (int k = 0; k < 624; ++k) {
      uint32_t y = (state_[k] & 0x80000000u) | (state_[(k + 1) % 624] & 0x7fffffffu);
      state_[k] = state_[(k + 397) % 624] ^ (y >> 1) ^ ((y & 1) != 0 ? 0x9908b0dfu : 0u);
    }
    at_ = 0;
  }
  uint32_t y = state_[at_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

double PythonRandom::random() {
  uint32_t a = next() >> 5, b = next() >> 6;
  return (a * 67108864.0 + b) / 9007199254740992.0;
}

}  // namespace sutor
