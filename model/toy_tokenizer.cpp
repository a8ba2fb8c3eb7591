// Byte-pair encoding learned from generated text, written as Hugging Face's tokenizer.json. Pieces
// are split as the file's pre-tokenizer (single digits, then ByteLevel's regular expression) splits
// ASCII; repeatedly the most frequent pair of neighbours becomes a token, ties to the pair of
// lowest ids. The chat template is DeepSeek-V2-Lite-Chat's.
#include "model/toy_tokenizer.h"

#include <array>
#include <map>

#include "model/toy_language.h"

namespace sutor::toy {
namespace {

constexpr const char* kBos = "<｜begin▁of▁sentence｜>";
constexpr const char* kEos = "<｜end▁of▁sentence｜>";
constexpr const char* kChatTemplate =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif "
    "%}"
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

std::string utf8(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// GPT-2's printable stand-in of every byte: itself where printable, else 256 and up in order (space
// is U+0120).
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> out;
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    out[b] = utf8(printable ? b : next++);
  }
  return out;
}

enum class Class { kLetter, kDigit, kSpace, kOther };
Class class_of(char c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Class::kLetter;
  if (c >= '0' && c <= '9') return Class::kDigit;
  return c == ' ' || (c >= '\t' && c <= '\r') ? Class::kSpace : Class::kOther;
}

// ` ?letters+`, single digits, ` ?others+`, runs of white space. A space goes with the word after
// it.
void count_pieces(std::string_view s, std::map<std::string, int64_t>& counts) {
  size_t i = 0;
  while (i < s.size()) {
    size_t begin = i;
    bool joins = s[i] == ' ' && i + 1 < s.size() &&
                 (class_of(s[i + 1]) == Class::kLetter || class_of(s[i + 1]) == Class::kOther);
    if (joins) ++i;
    Class c = class_of(s[i]);
    ++i;
    if (c != Class::kDigit)
      while (i < s.size() && class_of(s[i]) == c && c != Class::kSpace) ++i;
    ++counts[std::string(s.substr(begin, i - begin))];
  }
}

struct Piece {
  std::vector<int> ids;
  int64_t count;
};
using Pair = std::pair<int, int>;

}  // namespace

TokenizerFiles train_tokenizer(const std::vector<std::string>& texts, int vocab) {
  check(vocab >= 258,
        "tokenizer: a vocabulary of {} is too small; at least 258 (256 bytes, bos, eos)", vocab);
  std::map<std::string, int64_t> counts;
  for (const std::string& t : texts) count_pieces(t, counts);
  std::vector<Piece> pieces;
  for (const auto& [text, n] : counts) {
    pieces.push_back({{}, n});
    for (char c : text) pieces.back().ids.push_back(static_cast<unsigned char>(c));
  }

  auto alphabet = byte_alphabet();
  std::vector<std::string> tokens(alphabet.begin(), alphabet.end());
  Json merges = Json::array();
  while (static_cast<int>(tokens.size()) < vocab - 2) {
    std::map<Pair, int64_t> pairs;
    for (const Piece& p : pieces)
      for (size_t i = 1; i < p.ids.size(); ++i) pairs[{p.ids[i - 1], p.ids[i]}] += p.count;
    Pair best;
    int64_t most = 0;
    for (const auto& [pair, n] : pairs)
      if (n > most) best = pair, most = n;
    check(most > 0, "tokenizer: the text gives only {} of {} tokens", tokens.size(), vocab - 2);
    merges.push_back(tokens[best.first] + " " + tokens[best.second]);
    int id = static_cast<int>(tokens.size());
    tokens.push_back(tokens[best.first] + tokens[best.second]);
    for (Piece& p : pieces) {
      size_t kept = 0;
      for (size_t i = 0; i < p.ids.size(); ++i) {
        bool join = i + 1 < p.ids.size() && p.ids[i] == best.first && p.ids[i + 1] == best.second;
        p.ids[kept++] = join ? id : p.ids[i];
        if (join) ++i;
      }
      p.ids.resize(kept);
    }
  }

  Json entries = Json::object();
  for (size_t i = 0; i < tokens.size(); ++i) entries[tokens[i]] = i;
  check(entries.size() == tokens.size(), "tokenizer: two merges give the same token");
  auto special = [&](int id, const char* text) {
    return Json{{"id", id},        {"content", text},    {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", true}, {"special", true}};
  };
  auto byte_level = [](bool prefix, bool trim, bool regex) {
    return Json{{"type", "ByteLevel"},
                {"add_prefix_space", prefix},
                {"trim_offsets", trim},
                {"use_regex", regex}};
  };
  Json digits{{"type", "Digits"}, {"individual_digits", true}};
  Json split{{"type", "Sequence"},
             {"pretokenizers", Json::array({digits, byte_level(false, true, true)})}};
  Json model{{"type", "BPE"},
             {"dropout", nullptr},
             {"unk_token", nullptr},
             {"continuing_subword_prefix", nullptr},
             {"end_of_word_suffix", nullptr},
             {"fuse_unk", false},
             {"byte_fallback", false},
             {"vocab", std::move(entries)},
             {"merges", std::move(merges)}};
  Json tokenizer{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array({special(vocab - 2, kBos), special(vocab - 1, kEos)})},
      {"normalizer", nullptr},
      {"pre_tokenizer", split},
      {"post_processor", byte_level(true, false, true)},
      {"decoder", byte_level(true, true, true)},
      {"model", std::move(model)}};
  auto added = [](const char* text) {
    return Json{{"__type", "AddedToken"}, {"content", text}, {"lstrip", false},
                {"normalized", true},     {"rstrip", false}, {"single_word", false}};
  };
  Json config{{"add_bos_token", true},
              {"add_eos_token", false},
              {"bos_token", added(kBos)},
              {"clean_up_tokenization_spaces", false},
              {"eos_token", added(kEos)},
              {"legacy", true},
              {"model_max_length", 16384},
              {"pad_token", added(kEos)},
              {"sp_model_kwargs", Json::object()},
              {"unk_token", nullptr},
              {"tokenizer_class", "LlamaTokenizerFast"},
              {"chat_template", kChatTemplate}};
  return {tokenizer.dump(1) + "\n", config.dump(2) + "\n"};
}

TokenizerFiles toy_tokenizer(uint64_t world_seed) {
  Language language(world_seed);
  Rng rng(world_seed);
  std::vector<std::string> texts;
  for (const Row& r : language.pretraining(8000, rng))
    texts.push_back("User: " + r.question + "\n\nAssistant: " + r.answer);
  return train_tokenizer(texts);
}

}  // namespace sutor::toy
