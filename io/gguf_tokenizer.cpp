// The vocabulary of a GGUF file as the files of a hub folder: gpt2-type ones (byte-level BPE)
// become a tokenizer.json, llama-type ones (SentencePiece with scores) a SentencePiece model. What
// a text is first split into is only named in the file (tokenizer.ggml.pre); the patterns are those
// of the models' own tokenizer.json. Test: tests/gguf.cpp.

#include "io/gguf_tokenizer.h"

namespace sutor {
namespace {

constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseekCjk = R"([一-龥ࠀ-一가-퟿]+)";
constexpr const char* kDeepseekLetters =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";
constexpr const char* kDeepseekMarks = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr const char* kDeepseekV3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseekV3Cjk = R"([一-龥぀-ゟ゠-ヿ]+)";

struct Pre {
  std::vector<const char*> names;     // tokenizer.ggml.pre
  std::vector<const char*> patterns;  // applied one after the other
  bool nfc = false, bos = false, whole_words = false;
};
const std::vector<Pre>& pres() {
  static const std::vector<Pre> all = {
      {{"gpt-2", "olmo", "phi-2", "mpt"}, {kGpt2}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell"}, {R"(\p{N})", kGpt2}},
      {{"llama-bpe", "llama3", "llama-v3"}, {kLlama3}, false, true, true},
      {{"dbrx", "smaug-bpe"}, {kLlama3}},
      {{"qwen2", "deepseek-r1-qwen"}, {kQwen2}, true},
      {{"deepseek-llm"},
       {R"([\r\n])", kDeepseekLetters, kDeepseekMarks, R"(\s+$)", kDeepseekCjk, R"(\p{N})"}},
      {{"deepseek-coder"}, {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekCjk, R"(\p{N})"}},
      {{"deepseek-v3"}, {R"(\p{N}{1,3})", kDeepseekV3Cjk, kDeepseekV3}},
  };
  return all;
}

constexpr int64_t kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;  // tokenizer.ggml.token_type

struct Vocabulary {
  const GgufFile& file;
  const Json &tokens, *types, *scores;

  static const Json& list(const GgufFile& f, const char* key) {
    const Json* v = f.find(key);
    check(v != nullptr && v->is_array(), "{}: key {} is missing, or no list", f.path(), key);
    return *v;
  }
  explicit Vocabulary(const GgufFile& f)
      : file(f),
        tokens(list(f, "tokenizer.ggml.tokens")),
        types(f.find("tokenizer.ggml.token_type")),
        scores(f.find("tokenizer.ggml.scores")) {
    check(!tokens.empty() && tokens[0].is_string(), "{}: tokenizer.ggml.tokens holds no texts",
          f.path());
    for (auto [v, key] : {std::pair{types, "token_type"}, {scores, "scores"}})
      check(v == nullptr || (v->is_array() && v->size() == tokens.size() && (*v)[0].is_number()),
            "{}: tokenizer.ggml.{} must hold {} numbers, as there are tokens", f.path(), key,
            tokens.size());
  }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  const std::string& text(int64_t id) const {
    return tokens[static_cast<size_t>(id)].get_ref<const std::string&>();
  }
  int64_t type(int64_t id) const {
    return types ? (*types)[static_cast<size_t>(id)].get<int64_t>() : kNormal;
  }
  // The id of a special token; -1: none.
  int64_t id(const char* name) const {
    auto id = gguf_value<int64_t>(file, fmt::format("tokenizer.ggml.{}_token_id", name), -1);
    check(id >= -1 && id < size(), "{}: tokenizer.ggml.{}_token_id is {}, there are {} tokens",
          file.path(), name, id, size());
    return id;
  }
};

// nlohmann looks for a key before it adds one: too slow for a vocabulary. Keys that differ are the
// caller's to see to.
void put(Json& object, const std::string& key, Json value) {
  Json::object_t::Container& items = object.get_ref<Json::object_t&>();
  items.emplace_back(key, std::move(value));
}

Json tokenizer_json(const Vocabulary& v, bool* add_bos) {
  const GgufFile& f = v.file;
  auto name = gguf_value<std::string>(f, "tokenizer.ggml.pre");
  const Pre* pre = nullptr;
  std::vector<std::string> known;
  for (const Pre& p : pres())
    for (const char* n : p.names) {
      known.push_back(n);
      if (name == n) pre = &p;
    }
  check(pre != nullptr, "{}: tokenizer.ggml.pre is \"{}\", known: {}", f.path(), name,
        fmt::join(known, ", "));
  *add_bos = pre->bos;
  Json steps = Json::array();
  for (const char* p : pre->patterns)
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", p}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  Json bytes{{"type", "ByteLevel"},
             {"add_prefix_space", false},
             {"trim_offsets", true},
             {"use_regex", false}};
  steps.push_back(bytes);
  Json vocab = Json::object(), added = Json::array();
  for (int64_t id = 0; id < v.size(); ++id) {
    int64_t type = v.type(id);
    if (type == kNormal || type == kByte) {
      put(vocab, v.text(id), id);
      continue;
    }
    added.push_back({{"id", id},
                     {"content", v.text(id)},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type == kControl || type == kUnknown}});
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", pre->nfc ? Json{{"type", "NFC"}} : Json()},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}}},
          {"post_processor", bytes},
          {"decoder", bytes},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", pre->whole_words},
            {"vocab", std::move(vocab)},
            {"merges", Vocabulary::list(f, "tokenizer.ggml.merges")}}}};
}

// Post-processor that puts bos in front and eos behind.
Json template_of(const Vocabulary& v, int64_t bos, int64_t eos) {
  Json single = Json::array(), special = Json::object();
  auto token = [&](int64_t id) {
    if (id < 0) return;
    single.push_back({{"SpecialToken", {{"id", v.text(id)}, {"type_id", 0}}}});
    special[v.text(id)] = {{"id", v.text(id)}, {"ids", {id}}, {"tokens", {v.text(id)}}};
  };
  token(bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  token(eos);
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", special}};
}

// Protocol buffers: a field is its number and wire type, then a number or counted bytes.
std::string varint(uint64_t n) {
  std::string s;
  for (; n >= 0x80; n >>= 7) s += static_cast<char>(n | 0x80);
  return s + static_cast<char>(n);
}
std::string field(int number, uint64_t value) { return varint(number << 3) + varint(value); }
std::string field(int number, std::string_view bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}
std::string field(int number, float value) {
  return varint(number << 3 | 5) + std::string(reinterpret_cast<const char*>(&value), 4);
}

// sentencepiece_model.proto: a ModelProto of type BPE. Its kinds of pieces are GGUF's.
std::string sentencepiece_model(const Vocabulary& v) {
  check(v.scores != nullptr, "{}: key tokenizer.ggml.scores is missing", v.file.path());
  int64_t unknown = v.id("unknown");
  for (int64_t id = 0; unknown < 0 && id < v.size(); ++id)
    if (v.type(id) == kUnknown) unknown = id;
  check(unknown >= 0, "{}: the vocabulary has no unknown token", v.file.path());
  std::string model;
  bool fallback = false;
  for (int64_t id = 0; id < v.size(); ++id) {
    int64_t type = id == unknown ? kUnknown : v.type(id) == kUnknown ? kControl : v.type(id);
    check(type >= kNormal && type <= kByte, "{}: token {} has type {}, known: 1 to 6",
          v.file.path(), id, type);
    fallback |= type == kByte;
    float score = (*v.scores)[static_cast<size_t>(id)].get<float>();
    model +=
        field(1, field(1, v.text(id)) + field(2, score) + field(3, static_cast<uint64_t>(type)));
  }
  auto id_or_none = [](int64_t id) { return static_cast<uint64_t>(id); };  // -1: as a proto int32
  model += field(2, field(3, uint64_t{2}) + field(4, static_cast<uint64_t>(v.size())) +
                        field(35, uint64_t{fallback}) + field(40, id_or_none(unknown)) +
                        field(41, id_or_none(v.id("bos"))) + field(42, id_or_none(v.id("eos"))) +
                        field(43, id_or_none(v.id("padding"))));
  auto flag = [&v](const char* key, bool otherwise) {
    return uint64_t{gguf_value<bool>(v.file, std::string("tokenizer.ggml.") + key, otherwise)};
  };
  return model +
         field(3, field(1, std::string_view("identity")) +
                      field(3, flag("add_space_prefix", true)) +
                      field(4, flag("remove_extra_whitespaces", false)) + field(5, uint64_t{1}));
}

}  // namespace

bool has_tokenizer(const GgufFile& f) { return f.find("tokenizer.ggml.tokens") != nullptr; }

GgufTokenizer gguf_tokenizer(const GgufFile& f) {
  Vocabulary v(f);
  GgufTokenizer out;
  auto model = gguf_value<std::string>(f, "tokenizer.ggml.model");
  bool bpe = model == "gpt2", add_bos = true;
  check(bpe || model == "llama", "{}: tokenizer.ggml.model is \"{}\", known: gpt2, llama", f.path(),
        model);
  if (bpe)
    out.json = tokenizer_json(v, &add_bos);
  else
    out.proto = sentencepiece_model(v);
  add_bos = gguf_value<bool>(f, "tokenizer.ggml.add_bos_token", add_bos);
  bool add_eos = gguf_value<bool>(f, "tokenizer.ggml.add_eos_token", false);
  if (bpe && ((add_bos && v.id("bos") >= 0) || (add_eos && v.id("eos") >= 0)))
    out.json["post_processor"] =
        template_of(v, add_bos ? v.id("bos") : -1, add_eos ? v.id("eos") : -1);
  out.config = {{"tokenizer_class", bpe ? "PreTrainedTokenizerFast" : "LlamaTokenizer"},
                {"add_bos_token", add_bos},
                {"add_eos_token", add_eos},
                {"clean_up_tokenization_spaces", false}};
  if (!bpe) out.config["legacy"] = true;
  for (auto [name, key] : {std::pair{"bos", "bos_token"},
                           {"eos", "eos_token"},
                           {"unknown", "unk_token"},
                           {"padding", "pad_token"}})
    if (int64_t id = v.id(name); id >= 0) out.config[key] = v.text(id);
  if (const Json* t = f.find("tokenizer.chat_template"); t && t->is_string())
    out.config["chat_template"] = *t;
  return out;
}

}  // namespace sutor
