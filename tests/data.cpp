// Rows of text to rows of tokens, against the ESFT authors' own utils.py
// (tests/goldens/esft_train), and the tokenizer of its model.
#include "model/data.h"

#include <doctest/doctest.h>

#include <span>

#include "io/file.h"

using namespace sutor;

namespace {
const std::string kDir = "tests/goldens/esft_train";
}

TEST_CASE("data: the authors' prompt, labels and packing, token for token") {
  Tokenizer tok = Tokenizer::load(kDir + "/model");
  std::string file = kDir + "/data.jsonl";
  std::vector<Example> examples = encode_rows(read_dataset(file, false), file, tok, nullptr);
  int64_t truncated = 0;
  std::vector<TrainRow> rows =
      pack(examples, Packing::kEsftCompat, 64, tok.eos(), 5934875, truncated);
  DataSet golden = read_dataset(kDir + "/rows.jsonl", false);
  REQUIRE(rows.size() >= golden.rows.size());
  for (size_t i = 0; i < golden.rows.size(); ++i) {
    CAPTURE(i);
    CHECK(rows[i].ids == golden.rows[i].ids);
    CHECK(rows[i].labels == golden.rows[i].labels);
  }
}

TEST_CASE("data: whole documents share rows, each with its own start; nothing is lost") {
  std::vector<Example> e;
  for (int n : {5, 9, 3, 20, 4})
    e.push_back({std::vector<int32_t>(n, n), std::vector<int32_t>(n, n)});
  int64_t truncated = 0;
  auto rows = pack(e, Packing::kDocuments, 12, 0, 0, truncated);
  CHECK(truncated == 1);
  int64_t tokens = 0;
  for (const TrainRow& r : rows) {
    CHECK(r.ids.size() <= 12);
    for (size_t t = 0; t < r.ids.size(); ++t) {
      CHECK(r.ids[static_cast<size_t>(r.start[t])] == r.ids[t]);
      ++tokens;
    }
  }
  CHECK(tokens == 5 + 9 + 3 + 12 + 4);
}

TEST_CASE("data: a row that fits no kind names its line") {
  std::string file = "build/test-data.jsonl";
  auto error = [&](const std::string& text) {
    write_file_atomic(file, text);
    try {
      read_dataset(file, false);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error("{\"text\":\"a\"}\n\n{\"txt\":1}\n").find(".jsonl:3: the row has none of") !=
        std::string::npos);
  CHECK(error("{\"text\":\"a\"}\n{\"messages\":[]}\n").find(".jsonl:2: messages is no list") !=
        std::string::npos);
  CHECK(error("{\"messages\":[{\"role\":\"bot\",\"content\":\"\"}]}")
            .find("role \"bot\" is not one of") != std::string::npos);
  CHECK(error("{\"input_ids\":[1,2],\"labels\":[1]}").find("2 input_ids and 1 labels") !=
        std::string::npos);
  CHECK(error("{\"text\":").find(".jsonl:1:") != std::string::npos);
  CHECK(error("{\"text\":").find("invalid JSON at byte") != std::string::npos);
  CHECK(error("{\"text\":").find(": syntax error") != std::string::npos);
  CHECK(error("{\"text\":").find("json.exception") == std::string::npos);
  CHECK(error("").find("no usable row") != std::string::npos);
  write_file_atomic(file, "{\"text\":\"a\"}\n{}\n");
  CHECK(read_dataset(file, true).skipped == 1);
}

TEST_CASE("data: mask is true, false or a number; nothing else") {
  std::string file = "build/test-data.jsonl";
  auto trains = [&](const std::string& mask) {
    write_file_atomic(file,
                      "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":"
                      "\"assistant\",\"content\":\"b\",\"mask\":" +
                          mask + "}]}");
    return read_dataset(file, false).rows[0].messages[1].train;
  };
  for (const char* no : {"true", "1"}) CHECK_FALSE(trains(no));
  for (const char* yes : {"false", "0", "null"}) CHECK(trains(yes));
  for (const char* bad : {"\"false\"", "0.5", "[]"})
    CHECK_THROWS_WITH_AS(trains(bad), doctest::Contains("mask is"), Error);
  write_file_atomic(file, "{\"instruction\":1,\"conversation\":[]}");
  CHECK_THROWS_WITH_AS(read_dataset(file, false), doctest::Contains("instruction"), Error);
}

TEST_CASE("data: ready rows are taken as they are") {
  std::vector<Example> e;
  for (int n : {5, 3, 4})
    e.push_back({std::vector<int32_t>(n, n), std::vector<int32_t>(n, n), n == 3 ? 2 : 0});
  for (Packing p : {Packing::kDocuments, Packing::kNone, Packing::kEsftCompat}) {
    int64_t truncated = 0;
    auto rows = pack(e, p, 12, 0, 1, truncated);
    CHECK(truncated == 0);
    int alone = 0;
    for (const TrainRow& r : rows) alone += r.ids == e[1].ids && r.labels == e[1].labels;
    CHECK(alone == 1);
    CHECK(rows.size() == (p == Packing::kNone ? 3 : 2));
    CHECK_THROWS_WITH_AS(pack({e[1]}, p, 2, 0, 1, truncated), doctest::Contains("row 2: 3"), Error);
  }
  int64_t cut = 0;
  pack({e[0], e[0]}, Packing::kEsftCompat, 8, 0, 1, cut);
  CHECK(cut == 1);
}

TEST_CASE("data: rows to continue hold a prompt, messages or a text") {
  std::string file = "build/test-data.jsonl";
  write_file_atomic(file,
                    "{\"prompt\":\"hello\"}\n{\"text\":\"b\"}\n"
                    "{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}]}\n");
  DataSet d = read_dataset(file, false, RowKind::kPrompt);
  CHECK(d.rows[0].prompt == "hello");
  CHECK(d.rows[1].prompt == "b");
  CHECK(d.rows[2].messages.size() == 1);
  write_file_atomic(file, "{\"messages\":[]}");
  CHECK_THROWS_AS(read_dataset(file, false, RowKind::kPrompt), Error);
}

TEST_CASE("data: a conversation is tokenised as a whole; tokens at an answer's ends train") {
  Tokenizer tok = Tokenizer::load("tests/goldens/tokenizer/qwen");
  ChatTemplate chat(
      "{% for m in messages %}{{ m.role[0] ~ '\n' }}{% if m.role == 'assistant' %}{% generation "
      "%}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor "
      "%}",
      Json::object());
  for (const char* answer : {"Hello there", "\n\nHello", "Hello\n", "\xC3\xA9"}) {
    CAPTURE(answer);
    Row r;
    r.messages = {{"user", "the law", false}, {"assistant", answer, true}};
    const std::string whole = fmt::format("u\nthe law\na\n{}\n", answer);
    Example e = encode_template(r, tok, chat);
    CHECK(e.ids == tok.encode(whole, false));
    // What trains are the tokens that share a byte with the answer.
    const size_t begin = whole.find("\na\n") + 3, end = begin + std::string(answer).size();
    std::span<const int32_t> ids(e.ids);
    for (size_t i = 0; i < ids.size(); ++i) {
      // Of a character cut in two the bytes count, not the replacement character.
      auto bytes = [&](size_t n) {
        const std::string s = tok.decode(ids.first(n));
        return s.ends_with("\xEF\xBF\xBD") ? s.size() - 2 : s.size();
      };
      const bool shares = bytes(i + 1) > begin && bytes(i) < end;
      CAPTURE(i);
      CHECK((e.labels[i] >= 0) == shares);
    }
  }
}
