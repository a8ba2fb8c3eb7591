// Byte-pair encoding: the pair of lowest rank merges first, ties leftmost (huggingface/tokenizers, models/bpe/word.rs). A piece of n
// symbols takes O(n log n): a heap of candidate pairs over a linked list; results of short pieces are remembered.
#include <array>
#include <mutex>
#include <queue>
#include <shared_mutex>

#include "io/tokenizer_parts.h"

namespace sutor::tok {
namespace {

uint64_t pair_key(int32_t a, int32_t b) { return static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32 | static_cast<uint32_t>(b); }

// Remembered pieces; several locks, so that threads rarely wait.
class Cache {
 public:
  bool find(const std::string& piece, std::vector<int32_t>& out) {
    Shard& s = shard(piece);
    std::shared_lock lock(s.mutex);
    auto it = s.map.find(piece);
    if (it == s.map.end()) return false;
    out.insert(out.end(), it->second.begin(), it->second.end());
    return true;
  }
  void put(const std::string& piece, const int32_t* ids, size_t n) {
    constexpr size_t kEntries = 4096;
    Shard& s = shard(piece);
    std::unique_lock lock(s.mutex);
    if (s.map.size() >= kEntries) s.map.clear();
    s.map.emplace(piece, std::vector<int32_t>(ids, ids + n));
  }

 private:
  struct Shard {
    std::shared_mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>> map;
  };
  Shard& shard(const std::string& piece) { return shards_[std::hash<std::string>{}(piece) % shards_.size()]; }
  std::array<Shard, 8> shards_;
};

}  // namespace

struct BpeCache : Cache {};

Bpe::Bpe(const Json& m, const std::string& where) : cache_(std::make_shared<BpeCache>()) {
  check(m.is_object(), "{}: model must be an object", where);
  std::string type = m.contains("type") ? get<std::string>(m, "type", where) : "BPE";
  check(type == "BPE", "{}: model type {} is not known (BPE)", where, type);
  check(!m.contains("dropout") || m["dropout"].is_null() || m["dropout"] == 0.0, "{}: dropout must be null", where);
  auto flag = [&](const char* k) { return m.contains(k) && !m[k].is_null() && get<bool>(m, k, where); };
  auto text = [&](const char* k) { return m.contains(k) && !m[k].is_null() ? get<std::string>(m, k, where) : std::string(); };
  byte_fallback_ = flag("byte_fallback");
  ignore_merges_ = flag("ignore_merges");
  fuse_unk_ = flag("fuse_unk");
  prefix_ = text("continuing_subword_prefix");
  suffix_ = text("end_of_word_suffix");
  check(m.contains("vocab") && m["vocab"].is_object(), "{}: model.vocab is missing or no object", where);
  for (const auto& [token, id] : m["vocab"].items()) {
    check(id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < (1 << 30), "{}: model.vocab[\"{}\"] is {}", where, token, id.dump());
    vocab_[token] = id.get<int32_t>();
    tokens_[id.get<int32_t>()] = token;
  }
  if (!text("unk_token").empty()) {
    unk_ = id_of(text("unk_token"));
    check(unk_ >= 0, "{}: unk_token \"{}\" is not in the vocabulary", where, text("unk_token"));
  }
  for (int b = 0; b < 256; ++b) byte_ids_[b] = id_of(fmt::format("<0x{:02X}>", b));
  check(m.contains("merges") && m["merges"].is_array(), "{}: model.merges is missing or no list", where);
  int32_t rank = 0;
  for (const Json& pair : m["merges"]) {
    std::string a, b;
    if (pair.is_string()) {
      std::string s = pair.get<std::string>();
      size_t space = s.find(' ', 1);
      check(space != s.npos, "{}: model.merges[{}] \"{}\" is no pair", where, rank, s);
      a = s.substr(0, space);
      b = s.substr(space + 1);
    } else {
      check(pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string(), "{}: model.merges[{}] is no pair", where, rank);
      a = pair[0].get<std::string>();
      b = pair[1].get<std::string>();
    }
    std::string joined = a + (b.starts_with(prefix_) ? b.substr(prefix_.size()) : b);
    int32_t ia = id_of(a), ib = id_of(b), ij = id_of(joined);
    check(ia >= 0 && ib >= 0 && ij >= 0, "{}: model.merges[{}]: \"{}\" is not in the vocabulary", where, rank, ia < 0 ? a : ib < 0 ? b : joined);
    merges_.emplace(pair_key(ia, ib), Merge{rank++, ij});
  }
}

int32_t Bpe::id_of(std::string_view token) const {
  auto it = vocab_.find(std::string(token));
  return it == vocab_.end() ? -1 : it->second;
}

const std::string* Bpe::token_of(int32_t id) const {
  auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : &it->second;
}

void Bpe::merge(const std::string& piece, std::vector<int32_t>& out) const {
  struct Symbol {
    int32_t id, prev, next;
  };
  std::vector<Symbol> s;
  bool last_unknown = false;
  for (size_t i = 0; i < piece.size();) {
    size_t b = i;
    next_char(piece, i);
    std::string ch = piece.substr(b, i - b);
    std::string key = (b > 0 ? prefix_ : "") + ch + (i == piece.size() ? suffix_ : "");
    int32_t id = id_of(key);
    auto push = [&](int32_t x) {
      int32_t n = static_cast<int32_t>(s.size());
      s.push_back({x, n - 1, n + 1});
    };
    bool unknown = false;
    if (id >= 0) {
      push(id);
    } else {
      bool bytes = byte_fallback_;
      for (unsigned char c : key) bytes = bytes && byte_ids_[c] >= 0;
      if (bytes) {
        for (unsigned char c : key) push(byte_ids_[c]);
      } else if (unk_ >= 0) {
        unknown = true;
        if (!(fuse_unk_ && last_unknown)) push(unk_);
      }
    }
    last_unknown = unknown;
  }
  if (s.empty()) return;
  s.back().next = -1;
  struct Candidate {
    int32_t rank, at, left, right, id;
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  std::priority_queue<Candidate> heap;
  auto offer = [&](int32_t at) {
    if (at < 0 || s[at].next < 0) return;
    int32_t r = s[at].next;
    auto it = merges_.find(pair_key(s[at].id, s[r].id));
    if (it != merges_.end()) heap.push({it->second.rank, at, s[at].id, s[r].id, it->second.id});
  };
  for (size_t i = 0; i < s.size(); ++i) offer(static_cast<int32_t>(i));
  while (!heap.empty()) {
    Candidate c = heap.top();
    heap.pop();
    int32_t r = s[c.at].id < 0 ? -1 : s[c.at].next;
    if (r < 0 || s[c.at].id != c.left || s[r].id != c.right) continue;  // one of the two has merged since
    s[c.at].id = c.id;
    s[c.at].next = s[r].next;
    if (s[r].next >= 0) s[s[r].next].prev = c.at;
    s[r].id = -1;
    offer(s[c.at].prev);
    offer(c.at);
  }
  for (int32_t i = 0; i >= 0; i = s[i].next) out.push_back(s[i].id);
}

void Bpe::encode(const std::string& piece, std::vector<int32_t>& out) const {
  constexpr size_t kLongest = 256;
  if (piece.empty()) return;
  if (ignore_merges_)
    if (int32_t id = id_of(piece); id >= 0) return out.push_back(id);
  if (piece.size() <= kLongest && cache_->find(piece, out)) return;
  size_t before = out.size();
  merge(piece, out);
  if (piece.size() <= kLongest) cache_->put(piece, out.data() + before, out.size() - before);
}

}  // namespace sutor::tok
