// The tokenizer against goldens of the `tokenizers` and `sentencepiece` libraries
// (tests/goldens/make_tokenizers.py).

#include "io/tokenizer.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/error.h"

using namespace sutor;
using nlohmann::json;

static json read(const std::string& path) {
  std::ifstream f(path);
  return json::parse(f);
}

static std::string base64(const std::string& s) {
  static const std::string abc = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  unsigned acc = 0;
  int bits = 0;
  for (char c : s) {
    if (c == '=') break;
    acc = acc << 6 | static_cast<unsigned>(abc.find(c)), bits += 6;
    if (bits >= 8) out += static_cast<char>(acc >> (bits -= 8));
  }
  return out;
}

TEST_CASE("tokenizer: ids, text and streaming equal the reference libraries") {
  for (std::string name : {"deepseek", "qwen", "llama", "spm"}) {
    std::string dir = "tests/goldens/tokenizer/" + name;
    Tokenizer t = Tokenizer::load(dir);
    for (auto& c : read(dir + "/cases.json")) {
      std::string text = base64(c["base64"]);
      CAPTURE(name);
      CAPTURE(text);
      std::vector<int32_t> ids = c["ids"];
      CHECK(t.encode(text) == ids);
      CHECK(t.encode(text, false) == c["plain"].get<std::vector<int32_t>>());
      if (c.contains("decoded")) CHECK(t.decode(ids) == c["decoded"].get<std::string>());
      CHECK(t.decode(ids, true) == c["skipped"].get<std::string>());
      StreamDecoder s(t);
      std::string joined;
      for (int32_t id : ids) joined += s.push(id);
      CHECK(joined + s.finish() == t.decode(ids));
    }
  }
}

TEST_CASE("tokenizer: streaming a long text decodes no id more than a few times") {
  for (std::string name : {"deepseek", "qwen", "llama", "spm"}) {
    CAPTURE(name);
    std::string dir = "tests/goldens/tokenizer/" + name;
    Tokenizer t = Tokenizer::load(dir);
    std::vector<int32_t> ids;
    json cases = read(dir + "/cases.json");
    while (ids.size() < 100000)  // quadratic decoding would take hours
      for (auto& c : cases) {
        // Broken byte runs are decoded as one by the library, at their end.
        if (c["skipped"].get<std::string>().find("\xEF\xBF\xBD") != std::string::npos) continue;
        for (int32_t id : c["plain"]) ids.push_back(id);
      }
    for (bool skip : {false, true}) {
      StreamDecoder s(t, skip);
      std::string joined;
      for (int32_t id : ids) joined += s.push(id);
      joined += s.finish();
      CHECK(joined == t.decode(ids, skip));
    }
  }
  // Bytes that never become characters come late, but they come.
  Tokenizer t = Tokenizer::load("tests/goldens/tokenizer/qwen");
  std::vector<int32_t> broken(20000, t.token_to_id("\xC3\xBF"));  // the byte 0xff
  REQUIRE(broken[0] >= 0);
  StreamDecoder s(t);
  std::string joined;
  for (int32_t id : broken) joined += s.push(id);
  CHECK(joined + s.finish() == t.decode(broken));
}

TEST_CASE("tokenizer: tokenizer.model with legacy: false, as transformers reads it") {
  auto dir = std::filesystem::temp_directory_path() / fmt::format("sutor-spm-{}", getpid());
  for (auto& variant : read("tests/goldens/tokenizer/spm/not_legacy.json")) {
    std::filesystem::create_directories(dir);
    std::filesystem::copy_file("tests/goldens/tokenizer/spm/tokenizer.model",
                               dir / "tokenizer.model",
                               std::filesystem::copy_options::overwrite_existing);
    std::ofstream(dir / "tokenizer_config.json") << variant["config"].dump();
    Tokenizer t = Tokenizer::load(dir.string());
    for (auto& c : variant["cases"]) {
      std::string text = base64(c["base64"]);
      CAPTURE(text);
      CAPTURE(variant["config"].dump());
      std::vector<int32_t> ids = c["ids"];
      CHECK(t.encode(text) == ids);
      CHECK(t.decode(ids, true) == c["skipped"].get<std::string>());
    }
    std::filesystem::remove_all(dir);
  }
}

TEST_CASE("tokenizer: added tokens beside tokenizer.model come back as their text") {
  auto dir = std::filesystem::temp_directory_path() / fmt::format("sutor-added-{}", getpid());
  std::filesystem::create_directories(dir);
  std::filesystem::copy_file("tests/goldens/tokenizer/spm/tokenizer.model", dir / "tokenizer.model",
                             std::filesystem::copy_options::overwrite_existing);
  for (auto& variant : read("tests/goldens/tokenizer/spm/added.json")) {
    std::ofstream(dir / "tokenizer_config.json") << variant["config"].dump();
    Tokenizer t = Tokenizer::load(dir.string());
    CHECK(t.vocab_size() == 1702);
    for (auto& c : variant["cases"]) {
      const std::string text = c["text"];
      CAPTURE(text);
      CAPTURE(variant["config"].dump());
      std::vector<int32_t> ids = c["ids"];
      CHECK(t.decode(ids) == c["decoded"].get<std::string>());
      CHECK(t.decode(ids, true) == c["skipped"].get<std::string>());
      for (bool skip : {false, true}) {
        StreamDecoder s(t, skip);
        std::string joined;
        for (int32_t id : ids) joined += s.push(id);
        CHECK(joined + s.finish() == t.decode(ids, skip));
      }
    }
  }
  // An id far above all others would take memory that the file does not have.
  std::ofstream(dir / "tokenizer_config.json")
      << R"({"added_tokens_decoder":{"9999999":{"content":"<x>"}}})";
  CHECK_THROWS_WITH_AS(Tokenizer::load(dir.string()), doctest::Contains("9999999"), Error);
  std::filesystem::remove_all(dir);
}

TEST_CASE("tokenizer: every component in its forms equals the tokenizers library") {
  auto dir = std::filesystem::temp_directory_path() / fmt::format("sutor-variant-{}", getpid());
  std::filesystem::create_directories(dir);
  for (const json& v : read("tests/goldens/tokenizer/variants.json")) {
    const std::string name = v["name"], base = v["base"];
    CAPTURE(name);
    json j = read("tests/goldens/tokenizer/" + base + "/tokenizer.json");
    for (const auto& [part, value] : v["parts"].items()) {
      if (part != "model") {
        j[part] = value;
        continue;
      }
      for (const auto& [key, x] : value.items()) {
        if (x != "old") {
          j["model"][key] = x;
          continue;
        }
        for (json& m : j["model"]["merges"])  // as files before 2024 have them
          if (m.is_array()) m = m[0].get<std::string>() + " " + m[1].get<std::string>();
      }
    }
    std::ofstream(dir / "tokenizer.json") << j.dump();
    Tokenizer t;
    CHECK_NOTHROW(t = Tokenizer::load(dir.string()));
    for (const json& c : v["cases"]) {
      const std::string text = base64(c[0]);
      CAPTURE(text);
      const std::vector<int32_t> ids = c[1];
      CHECK(t.encode(text) == ids);
      CHECK(t.encode(text, false) == c[2].get<std::vector<int32_t>>());
      CHECK(t.decode(ids) == c[3].get<std::string>());
      if (!c[4].is_null()) CHECK(t.decode(ids, true) == c[4].get<std::string>());
    }
  }
  std::filesystem::remove_all(dir);
}

static std::string error_of(const std::string& patch, const std::string& text = "") {
  auto dir = std::filesystem::temp_directory_path() / "sutor_tokenizer_test";
  std::filesystem::create_directories(dir);
  json j = read("tests/goldens/tokenizer/qwen/tokenizer.json");
  j.merge_patch(json::parse(patch));
  std::ofstream(dir / "tokenizer.json") << j.dump();
  try {
    Tokenizer::load(dir.string()).encode(text);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST_CASE("tokenizer: corrupt files give one line that names the key") {
  const char* rows[][2] = {
      {R"({"normalizer":{"type":"Magic"}})", "normalizer type 'Magic' is unknown"},
      {R"({"pre_tokenizer":{"type":"Magic"}})", "pre-tokenizer type 'Magic' is unknown"},
      {R"({"decoder":{"type":"Magic"}})", "decoder type 'Magic' is unknown"},
      {R"({"post_processor":{"type":"Magic"}})", "post-processor type 'Magic' is unknown"},
      {R"({"model":{"type":"Unigram"}})", "model.type: 'Unigram' is unknown"},
      {R"({"model":null})", "model: the key is missing"},
      {R"({"model":{"dropout":0.1}})", "model.dropout"},
      {R"({"model":{"vocab":3}})", "model.vocab: an object is expected"},
      {R"({"model":{"vocab":{"a":-1}}})", "model.vocab['a']"},
      {R"({"model":{"vocab":{"a":16777215}}})", "token id 16777215 of 'a'"},
      {R"({"added_tokens":[{"id":16777215,"content":"<x>"}]})", "token id 16777215 of '<x>'"},
      {R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"b"}}],
          "special_tokens":{"b":{"ids":[4294967297]}}}})",
       "ids of 'b': 4294967297"},
      {R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"b"}}],
          "special_tokens":{"b":{"ids":[-1]}}}})",
       "ids of 'b': -1"},
      {R"({"model":{"merges":["ab"]}})", "model.merges[0]"},
      {R"({"model":{"merges":[["a","zzzzzz"]]}})", "token 'zzzzzz' is not in the vocabulary"},
      {R"({"model":{"unk_token":"nope"}})", "model.unk_token"},
      {R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}})",
       "bad regular expression"},
      {R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a"},"behavior":"X"}})",
       "behavior: 'X' is unknown"},
  };
  for (auto& r : rows) {
    std::string e = error_of(r[0]);
    CAPTURE(e);
    CHECK(e.find(r[1]) != std::string::npos);
    CHECK(e.find("tokenizer.json: ") != std::string::npos);
  }
}

TEST_CASE("tokenizer: a hostile pattern ends in an error, not in a hang") {
  std::string e =
      error_of(R"j({"pre_tokenizer":{"pretokenizers":null,"type":"Split","behavior":"Isolated",
      "pattern":{"Regex":"(x+x+)+y"}}})j",
               std::string(64, 'x'));
  CHECK(e.find("retry limit") != std::string::npos);
}
