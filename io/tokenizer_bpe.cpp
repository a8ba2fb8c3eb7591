// Byte-pair encoding: start from characters, merge the pair of lowest rank (leftmost on ties) until
// none is left.

#include <algorithm>
#include <queue>

#include "engine/error.h"
#include "io/tokenizer_parts.h"

namespace sutor::tok {

ByteAlphabet::ByteAlphabet() {
  std::fill(std::begin(byte_of), std::end(byte_of), -1);
  int next = 0x100;
  for (int b = 0; b < 256; ++b) {
    bool self = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    int c = self ? b : next++;
    append_utf8(of[b], c);
    byte_of[c] = b;
  }
}
const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet a;
  return a;
}

static uint64_t pair_key(int32_t a, int32_t b) { return uint64_t(uint32_t(a)) << 32 | uint32_t(b); }

Bpe::Bpe(const Json& j, const Where& w, bool byte_level) : byte_level_(byte_level) {
  std::string t = str_or(j, "type", "BPE", w);
  check(t == "BPE", "{}: {}.type: '{}' is unknown; allowed: BPE", w.file, w.key, t);
  auto drop = j.find("dropout");
  check(drop == j.end() || drop->is_null() || (drop->is_number() && drop->get<double>() == 0),
        "{}: {}.dropout: must be null or 0 (encoding is deterministic)", w.file, w.key);
  prefix_ = str_or(j, "continuing_subword_prefix", "", w);
  suffix_ = str_or(j, "end_of_word_suffix", "", w);
  byte_fallback_ = bool_or(j, "byte_fallback", false, w);
  fuse_unk_ = bool_or(j, "fuse_unk", false, w);
  ignore_merges_ = bool_or(j, "ignore_merges", false, w);
  const Json& v = need(j, "vocab", w);
  check(v.is_object(), "{}: {}.vocab: an object is expected, found {}", w.file, w.key,
        v.type_name());
  for (auto& [token, id] : v.items()) {
    check(id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < 1 << 24,
          "{}: {}.vocab['{}']: an id from 0 to 16777215 is expected, found {}", w.file, w.key,
          token, id.dump());
    vocab.emplace(token, id.get<int32_t>());
  }
  auto find = [&](const std::string& s) {
    auto it = vocab.find(s);
    return it == vocab.end() ? -1 : it->second;
  };
  std::string unk = str_or(j, "unk_token", "", w);
  if (!unk.empty()) {
    unk_ = find(unk);
    check(unk_ >= 0, "{}: {}.unk_token: '{}' is not in the vocabulary", w.file, w.key, unk);
  }
  for (int b = 0; b < 256; ++b) {
    bytes_[b] = find(fmt::format("<0x{:02X}>", b));
    alphabet_[b] = find(byte_alphabet().of[b]);
  }
  const Json& m = need(j, "merges", w);
  check(m.is_array(), "{}: {}.merges: an array is expected, found {}", w.file, w.key,
        m.type_name());
  int32_t rank = 0;
  for (const Json& x : m) {
    std::string a, b;
    if (x.is_string()) {
      std::string s = x.get<std::string>();
      size_t i = s.find(' ');
      check(i != s.npos && s.find(' ', i + 1) == s.npos,
            "{}: {}.merges[{}]: 'a b' is expected, found '{}'", w.file, w.key, rank, s);
      a = s.substr(0, i), b = s.substr(i + 1);
    } else {
      check(x.is_array() && x.size() == 2 && x[0].is_string() && x[1].is_string(),
            "{}: {}.merges[{}]: 'a b' or [a, b] is expected, found {}", w.file, w.key, rank,
            x.dump().substr(0, 60));
      a = x[0].get<std::string>(), b = x[1].get<std::string>();
    }
    int32_t ia = find(a), ib = find(b);
    check(ia >= 0 && ib >= 0, "{}: {}.merges[{}]: token '{}' is not in the vocabulary", w.file,
          w.key, rank, ia < 0 ? a : b);
    check(b.size() >= prefix_.size(), "{}: {}.merges[{}]: '{}' is shorter than the prefix", w.file,
          w.key, rank, b);
    int32_t id = find(a + b.substr(prefix_.size()));
    check(id >= 0, "{}: {}.merges[{}]: the merged token '{}{}' is not in the vocabulary", w.file,
          w.key, rank, a, b);
    merges_[pair_key(ia, ib)] = {rank++, id};
  }
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& out) const {
  if (piece.empty()) return;
  std::unique_lock lock(mutex_, std::try_to_lock);  // a busy cache is skipped, never waited for
  if (!lock || piece.size() > 256) return encode_uncached(piece, out);
  auto it = cache_.find(piece);
  if (it == cache_.end()) {
    if (cache_.size() >= 20000) cache_.clear();
    std::vector<int32_t> ids;
    encode_uncached(piece, ids);
    it = cache_.emplace(std::string(piece), std::move(ids)).first;
  }
  out.insert(out.end(), it->second.begin(), it->second.end());
}

void Bpe::encode_uncached(std::string_view piece, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    std::string whole;
    if (byte_level_)
      for (unsigned char c : piece) whole += byte_alphabet().of[c];
    else
      whole = piece;
    if (auto it = vocab.find(whole); it != vocab.end()) return out.push_back(it->second);
  }
  std::vector<int32_t> ids;
  int32_t pending = -1;
  auto flush = [&] {
    if (pending >= 0) ids.push_back(pending);
    pending = -1;
  };
  std::string key;
  for (size_t i = 0; i < piece.size();) {
    size_t b = i;
    int32_t id = -1;
    if (byte_level_) {
      unsigned char c = piece[i++];
      id = alphabet_[c];
      key = byte_alphabet().of[c];
    } else {
      next_char(piece, i);
      key.assign(piece.substr(b, i - b));
    }
    if (!byte_level_ || !prefix_.empty() || !suffix_.empty()) {
      std::string full = (b ? prefix_ : "") + key + (i == piece.size() ? suffix_ : "");
      auto it = vocab.find(full);
      id = it == vocab.end() ? -1 : it->second;
      key = full;
    }
    if (id >= 0) {
      flush();
      ids.push_back(id);
      continue;
    }
    if (byte_fallback_ &&
        std::all_of(key.begin(), key.end(), [&](unsigned char c) { return bytes_[c] >= 0; })) {
      flush();
      for (unsigned char c : key) ids.push_back(bytes_[c]);
      continue;
    }
    if (unk_ < 0) continue;  // as the library: without unk_token an unknown character is dropped
    if (!fuse_unk_) flush();
    pending = unk_;
  }
  flush();
  merge(ids);
  out.insert(out.end(), ids.begin(), ids.end());
}

void Bpe::merge(std::vector<int32_t>& ids) const {
  // A heap of candidate pairs over a linked list: O(n log n). Stale entries are recognised by their
  // resulting id.
  struct Cand {
    int32_t rank, pos, id;
    bool operator<(const Cand& o) const { return rank != o.rank ? rank > o.rank : pos > o.pos; }
  };
  int32_t n = static_cast<int32_t>(ids.size());
  std::vector<int32_t> next(n), prev(n);
  std::vector<Cand> init;
  auto look = [&](int32_t a, int32_t b) {
    auto it = merges_.find(pair_key(ids[a], ids[b]));
    return it == merges_.end() ? nullptr : &it->second;
  };
  for (int32_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? i + 1 : -1, prev[i] = i - 1;
    if (i + 1 < n)
      if (auto m = look(i, i + 1)) init.push_back({m->rank, i, m->id});
  }
  std::priority_queue<Cand> heap(std::less<Cand>(), std::move(init));
  while (!heap.empty()) {
    Cand c = heap.top();
    heap.pop();
    if (ids[c.pos] < 0 || next[c.pos] < 0) continue;
    auto m = look(c.pos, next[c.pos]);
    if (!m || m->id != c.id) continue;
    int32_t r = next[c.pos];
    ids[c.pos] = c.id, ids[r] = -1;
    next[c.pos] = next[r];
    if (next[r] >= 0) prev[next[r]] = c.pos;
    if (int32_t p = prev[c.pos]; p >= 0)
      if (auto x = look(p, c.pos)) heap.push({x->rank, p, x->id});
    if (int32_t q = next[c.pos]; q >= 0)
      if (auto x = look(c.pos, q)) heap.push({x->rank, c.pos, x->id});
  }
  std::erase(ids, -1);
}

}  // namespace sutor::tok
