// Tokenizer: loading, added tokens, post-processing, and the two back ends (tokenizer.json,
// tokenizer.model).

#include "io/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "engine/error.h"
#include "io/file.h"
#include "io/gguf_tokenizer.h"
#include "io/json.h"
#include "io/tokenizer_parts.h"

namespace sutor {

using namespace tok;

namespace {
constexpr std::string_view kUnderline = "\xE2\x96\x81";  // SentencePiece's visible space
}  // namespace

struct Tokenizer::Impl {
  AddedTokens added;
  Normalizer normalizer;
  PreTokenizer pre;
  std::unique_ptr<Bpe> bpe;
  Decoder decoder;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> spm;
  std::vector<int32_t> before, after;  // what the post-processor puts around the text
  std::vector<std::string> tokens;
  std::vector<bool> is_special;
  int64_t largest = 0;  // id that may be
  std::string file;
  std::unordered_map<std::string, int32_t> ids;
  std::unordered_map<int32_t, std::string> shown;  // normalized added tokens decode to this
  int32_t bos = -1, eos = -1;
  bool legacy = true, add_prefix_space = true;  // tokenizer.model only
  std::string unk;                              // text of the unknown token
  size_t unk_pieces = 0;                        // how many pieces that text is
  int visible = -1;                             // a piece of text without a space

  // Ids may leave gaps, but none whose memory the file's own size does not account for.
  void allow_ids(size_t entries, const std::string& path) {
    largest = static_cast<int64_t>(2 * entries + (1 << 16)), file = path;
  }
  void put(const std::string& token, int64_t id, bool special) {
    check(id >= 0 && id <= largest, "{}: token id {} of '{}' is out of range 0 to {}", file, id,
          token, largest);
    if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(id + 1), is_special.resize(id + 1);
    tokens[id] = token, ids[token] = static_cast<int32_t>(id);
    if (special) is_special[id] = true;
  }
  void add(Added a) {
    if (a.content.empty()) return;
    put(a.content, a.id, a.special);
    a.match = a.normalized && normalizer ? normalizer(a.content) : a.content;
    if (a.match != a.content) shown[a.id] = a.match;
    added.list.push_back(std::move(a));
  }
  void encode_section(std::string_view s, bool first, std::vector<int32_t>& out) const {
    Pieces p;
    p.list.push_back({s, first});
    if (pre) pre(p);
    for (const Piece& x : p.list) bpe->encode(x.text, out);
  }

  // Hugging Face's `legacy: false`: one prefix at the very beginning, none after special tokens.
  std::string with_prefix(const std::string& text) const {
    if (text.empty()) return text;
    std::string s = add_prefix_space ? std::string(kUnderline) : "";
    for (size_t i = 0; i < text.size();)
      if (std::string_view(text).substr(i).starts_with(kUnderline))
        s += ' ', i += kUnderline.size();
      else
        s += text[i++];
    return s;
  }

  void encode_spm(std::string_view text, std::vector<int32_t>& out) const {
    std::vector<int> ids;
    // The library drops leading spaces of a text without dummy prefix; behind the unknown token,
    // whose pieces are then dropped, they stay.
    bool guard = !legacy && (text.starts_with(kUnderline) || text.starts_with(' '));
    auto status = spm->Encode((guard ? unk : "") + std::string(text), &ids);
    check(status.ok(), "tokenizer.model: {}", status.ToString());
    out.insert(out.end(), ids.begin() + (guard ? std::min(unk_pieces, ids.size()) : 0), ids.end());
  }

  // Runs of pieces by the library, between them the text of added, control and unknown tokens. Only
  // a text's very first space can be the prefix.
  std::string decode_spm(std::span<const int32_t> list, bool skip_special) const {
    std::string out;
    std::vector<int> run;
    auto flush = [&] {
      if (run.empty()) return;
      std::string s, before;
      const bool first = out.empty(), guard = !first && visible >= 0;
      if (guard) run.insert(run.begin(), visible);  // the library drops a text's leading space
      auto status = spm->Decode(run, &s);
      if (guard && status.ok()) status = spm->Decode(std::vector<int>{visible}, &before);
      check(status.ok(), "tokenizer.model: {}", status.ToString());
      // What with_prefix() put there; the library does it when it made the prefix itself.
      const bool prefixed = first && !legacy && add_prefix_space && s.starts_with(' ');
      out.append(s, prefixed ? 1 : before.size(), s.npos);
      run.clear();
    };
    for (int32_t id : list) {
      if (id < 0 || static_cast<size_t>(id) >= tokens.size() || (skip_special && is_special[id]))
        continue;
      if (id < spm->GetPieceSize() && !spm->IsControl(id) && !spm->IsUnknown(id)) {
        run.push_back(id);
        continue;
      }
      flush();
      out += tokens[id];
    }
    flush();
    return out;
  }

  void load_json(const Json& j, const std::string& path);
  void load_spm(const std::string& proto, const std::string& path);
  void load_config(const Json& j, const std::string& path);
  void without_dummy_prefix();
  void post_processor(const Json& j, const Where& w);
};

void Tokenizer::Impl::post_processor(const Json& j, const Where& w) {
  if (j.is_null()) return;
  std::string t = type_of(j, w);
  if (t == "ByteLevel") return;
  if (t == "Sequence") {
    for (auto& x : need(j, "processors", w)) post_processor(x, w);
    return;
  }
  check(
      t == "TemplateProcessing",
      "{}: {}: post-processor type '{}' is unknown; allowed: TemplateProcessing ByteLevel Sequence",
      w.file, w.key, t);
  bool seen = false;
  for (auto& x : need(j, "single", w)) {
    if (x.contains("Sequence")) {
      seen = true;
      continue;
    }
    std::string name = str(need(x, "SpecialToken", w), "id", w);
    const Json& spec = need(need(j, "special_tokens", w), name.c_str(), w.at("special_tokens"));
    for (auto& id : need(spec, "ids", w)) {
      check(id.is_number_integer() && id.get<int64_t>() >= 0 &&
                id.get<int64_t>() < static_cast<int64_t>(tokens.size()),
            "{}: {}: ids of '{}': {} is no id of a vocabulary of {}", w.file, w.key, name,
            id.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60), tokens.size());
      (seen ? after : before).push_back(id.get<int32_t>());
    }
  }
}

void Tokenizer::Impl::load_json(const Json& j, const std::string& path) {
  Where w{path, ""};
  auto get = [&](const char* k) -> Json { return j.is_object() && j.contains(k) ? j[k] : Json(); };
  const Json& model = need(j, "model", w);
  normalizer = make_normalizer(get("normalizer"), w.at("normalizer"));
  bool byte_level = false, dec = false;
  pre = make_pretokenizer(get("pre_tokenizer"), w.at("pre_tokenizer"), &byte_level);
  decoder = make_decoder(get("decoder"), w.at("decoder"), &dec);
  bpe = std::make_unique<Bpe>(model, w.at("model"), byte_level);
  const Json added_tokens = get("added_tokens");
  allow_ids(bpe->vocab.size() + added_tokens.size(), path);
  for (auto& [t, id] : bpe->vocab) put(t, id, false);
  Where a = w.at("added_tokens");
  for (auto& x : added_tokens) {
    int64_t id = int_or(x, "id", -1, a);
    check(id >= 0 && id < 1 << 24, "{}: {}.id: {} is out of range 0 to 16777215", path, a.key, id);
    Added token = AddedTokens::read(x, static_cast<int32_t>(id), a);
    // A token that the model has keeps the model's id, as in the library.
    if (auto it = bpe->vocab.find(token.content); it != bpe->vocab.end()) token.id = it->second;
    add(std::move(token));
  }
  post_processor(get("post_processor"), w.at("post_processor"));
}

void Tokenizer::Impl::load_spm(const std::string& proto, const std::string& path) {
  spm = std::make_unique<sentencepiece::SentencePieceProcessor>();
  auto status = spm->LoadFromSerializedProto(proto);
  check(status.ok(), "{}: not a SentencePiece model: {}", path, status.ToString());
  allow_ids(static_cast<size_t>(spm->GetPieceSize()), path);
  for (int i = 0; i < spm->GetPieceSize(); ++i) {
    bool control = spm->IsControl(i) || spm->IsUnknown(i);
    put(spm->IdToPiece(i), i, control);
    if (visible < 0 && !control && !spm->IsByte(i) && !spm->IsUnused(i) &&
        spm->IdToPiece(i).find(kUnderline) == std::string::npos)
      visible = i;
    if (control) add({spm->IdToPiece(i), "", i, true, false, false, false, false});
  }
  bos = spm->bos_id(), eos = spm->eos_id();
}

void Tokenizer::Impl::without_dummy_prefix() {
  // ModelProto.normalizer_spec (3) = {add_dummy_prefix (3) = false}: a field that occurs again is
  // merged into the first.
  std::string proto = spm->serialized_model_proto() + std::string("\x1a\x02\x18\x00", 4);
  auto status = spm->LoadFromSerializedProto(proto);
  check(status.ok(), "tokenizer.model: {}", status.ToString());
  unk = tokens[spm->unk_id()];
  std::vector<int> ids;
  status = spm->Encode(unk, &ids);
  check(status.ok(), "tokenizer.model: {}", status.ToString());
  unk_pieces = ids.size();
}

void Tokenizer::Impl::load_config(const Json& j, const std::string& path) {
  bool add_bos = true, add_eos = false, llama = spm != nullptr;
  if (!j.is_null()) {
    Where w{path, ""};
    check(j.is_object(), "{}: an object is expected", path);
    auto token = [&](const char* key, int32_t old) {
      auto it = j.find(key);
      if (it == j.end() || it->is_null()) return spm ? old : -1;
      std::string s = it->is_object() ? str(*it, "content", w.at(key)) : str(j, key, w);
      auto id = ids.find(s);
      return id == ids.end() ? -1 : id->second;
    };
    if (spm && j.contains("added_tokens_decoder")) {
      allow_ids(tokens.size() + j["added_tokens_decoder"].size(), path);
      for (auto& [k, v] : j["added_tokens_decoder"].items()) {
        check(!k.empty() && k.size() < 8 &&
                  std::all_of(k.begin(), k.end(), [](char c) { return c >= '0' && c <= '9'; }),
              "{}: added_tokens_decoder: '{}' is not an id", path, k);
        if (Added a = AddedTokens::read(v, std::stoi(k), w.at("added_tokens_decoder"));
            !ids.contains(a.content))
          add(a);
      }
    }
    bos = token("bos_token", bos), eos = token("eos_token", eos);
    add_bos = bool_or(j, "add_bos_token", true, w), add_eos = bool_or(j, "add_eos_token", false, w);
    // LlamaTokenizerFast rebuilds the file's post-processor from these two; other classes keep it.
    std::string cls = j.contains("tokenizer_class") && j["tokenizer_class"].is_string()
                          ? j["tokenizer_class"].get<std::string>()
                          : "";
    if (cls == "LlamaTokenizerFast" || cls == "LlamaTokenizer")
      llama = true, before.clear(), after.clear();
    legacy = !spm || bool_or(j, "legacy", true, w);
    add_prefix_space = bool_or(j, "add_prefix_space", true, w);
    if (!legacy) without_dummy_prefix();
  }
  if (llama && add_bos && bos >= 0) before = {bos};
  if (llama && add_eos && eos >= 0) after = {eos};
}

Tokenizer Tokenizer::load(const std::string& folder) {
  auto impl = std::make_shared<Impl>();
  std::string json = folder + "/tokenizer.json", spm = folder + "/tokenizer.model",
              config = folder + "/tokenizer_config.json";
  if (folder.ends_with(".gguf")) {
    GgufTokenizer t = gguf_tokenizer(GgufFile(folder));
    if (t.proto.empty())
      impl->load_json(t.json, folder);
    else
      impl->load_spm(t.proto, folder);
    impl->load_config(t.config, folder);
  } else {
    if (std::filesystem::exists(json))
      impl->load_json(read_json_file(json), json);
    else if (std::filesystem::exists(spm))
      impl->load_spm(read_file(spm), spm);
    else
      fail("{}: neither tokenizer.json nor tokenizer.model is there", folder);
    impl->load_config(std::filesystem::exists(config) ? read_json_file(config) : Json(), config);
  }
  impl->added.index();
  Tokenizer t;
  t.impl_ = std::move(impl);
  return t;
}

std::vector<int32_t> Tokenizer::encode(std::string_view raw, bool add_special,
                                       bool parse_special) const {
  std::string text = replace_invalid(raw);
  std::vector<int32_t> out;
  if (add_special) out = impl_->before;
  std::vector<Section> outer, inner;
  if (impl_->spm && !impl_->legacy) text = impl_->with_prefix(text);
  impl_->added.split(text, 0, false, parse_special, outer);
  // The prefix before a special token is none.
  if (impl_->spm && !impl_->legacy && outer.size() > 1 && outer[0].text == kUnderline &&
      special(outer[1].id))
    outer.erase(outer.begin());
  for (const Section& s : outer) {
    if (s.id >= 0) {
      out.push_back(s.id);
    } else if (impl_->spm) {
      impl_->encode_spm(s.text, out);
    } else {
      std::string n =
          impl_->normalizer ? impl_->normalizer(std::string(s.text)) : std::string(s.text);
      inner.clear();
      impl_->added.split(n, s.at, true, parse_special, inner);
      for (const Section& x : inner)
        if (x.id >= 0)
          out.push_back(x.id);
        else
          impl_->encode_section(x.text, x.at == 0, out);
    }
  }
  if (add_special) out.insert(out.end(), impl_->after.begin(), impl_->after.end());
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  if (impl_->spm) return impl_->decode_spm(ids, skip_special);
  std::vector<std::string> t;
  for (int32_t id : ids)
    if (id >= 0 && id < vocab_size() && !(skip_special && special(id))) {
      auto shown = impl_->shown.find(id);
      t.push_back(shown == impl_->shown.end() ? impl_->tokens[id] : shown->second);
    }
  impl_->decoder(t);
  std::string out;
  for (auto& s : t) out += s;
  return out;
}

int32_t Tokenizer::bos() const { return impl_->bos; }
int32_t Tokenizer::eos() const { return impl_->eos; }
int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tokens.size()); }
int32_t Tokenizer::token_to_id(std::string_view token) const {
  auto it = impl_->ids.find(std::string(token));
  return it == impl_->ids.end() ? -1 : it->second;
}
const std::string& Tokenizer::id_to_token(int32_t id) const {
  check(id >= 0 && id < vocab_size(), "token id {} is out of range 0 to {}", id, vocab_size() - 1);
  return impl_->tokens[id];
}
bool Tokenizer::special(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->is_special[id];
}

}  // namespace sutor
