// Rows of PESC: the prompt, all its turns, what trains; and the authors' own tokens.
#include <doctest/doctest.h>

#include <filesystem>

#include "io/file.h"
#include "model/data.h"
#include "model/pesc_prompt.h"

using namespace sutor;

namespace {

const std::string
    kTwoTurns =
        R"({"corpus":"","dataset":"d","instruction":"Be brief.","conversation":[{"input":"Hi","output":"Ho"},{"input":"And?","output":"So."}]})",
    kOneTurn =
        R"({"corpus":"","dataset":"d","instruction":"","conversation":[{"input":"Hi","output":"Ho"}]})",
    kCorpus = R"({"corpus":"Once upon","dataset":"d","instruction":"","conversation":[]})";

DataSet rows(const std::string& text) {
  const std::string file = "build/test-pesc-data.jsonl";
  write_file_atomic(file, text);
  return read_dataset(file, false);
}

}  // namespace

TEST_CASE("pesc data: one bos, every turn, answers train with their eos; a corpus trains whole") {
  Tokenizer tok = Tokenizer::load("tests/goldens/esft_train/model");
  const ChatTemplate chat = pesc_template(tok);
  const std::string bos = tok.id_to_token(tok.bos()), eos = tok.id_to_token(tok.eos());
  DataSet data = rows(kTwoTurns + "\n" + kOneTurn + "\n" + kCorpus + "\n");
  auto examples = encode_rows(data, "file", tok, &chat);
  REQUIRE(examples.size() == 3);
  CHECK(tok.decode(examples[0].ids) == bos +
                                           "### System:\nBe brief.\n### Human:\nHi\n### "
                                           "Assistant:\nHo" +
                                           eos + "### Human:\nAnd?\n### Assistant:\nSo." + eos);
  CHECK(std::count(examples[0].ids.begin(), examples[0].ids.end(), tok.bos()) == 1);
  std::vector<int32_t> trained;
  for (int32_t l : examples[0].labels)
    if (l >= 0) trained.push_back(l);
  CHECK(tok.decode(trained) == "Ho" + eos + "So." + eos);
  CHECK(tok.decode(examples[1].ids) == bos + "### Human:\nHi\n### Assistant:\nHo" + eos);
  CHECK(tok.decode(examples[2].ids) == bos + "Once upon" + eos);
  CHECK(examples[2].labels == examples[2].ids);
  int64_t cut = 0;  // a row that is cut ends without an eos
  auto packed = pack({examples[1]}, Packing::kNone, std::ssize(examples[1].ids) - 1, 0, 0, cut);
  CHECK(cut == 1);
  CHECK(packed[0].ids.back() != tok.eos());
}

TEST_CASE("pesc data: the authors' encoding has two bos, and single turns alone") {
  Tokenizer tok = Tokenizer::load("tests/goldens/esft_train/model");
  int64_t dropped = 0;
  auto e = encode_pesc_compat(rows(kTwoTurns + "\n" + kOneTurn + "\n" + kCorpus + "\n"), "file",
                              tok, 512, dropped);
  CHECK(dropped == 1);
  REQUIRE(e.size() == 2);
  CHECK(std::count(e[0].ids.begin(), e[0].ids.end(), tok.bos()) == 2);
  CHECK(std::count(e[1].labels.begin(), e[1].labels.end(), -100) == 2);
  CHECK_THROWS_WITH_AS(encode_pesc_compat(rows(kTwoTurns), "file", tok, 512, dropped),
                       doctest::Contains("--format pesc"), Error);
  CHECK_THROWS_WITH_AS(
      encode_pesc_compat(rows(R"({"prompt":"a","completion":"b"})"), "file", tok, 512, dropped),
      doctest::Contains("file:1"), Error);
}

TEST_CASE("pesc data: the authors' SupervisedDataset, token for token") {
  const std::string dir = "tests/goldens/pesc_data/", folder = "build/test-pesc-tokenizer";
  const Json golden = read_json_file(dir + "golden.json");
  const DataSet data = read_dataset(dir + "data.json", false);
  std::filesystem::create_directories(folder);
  for (const Json& c : golden["cases"]) {
    write_file_atomic(folder + "/tokenizer.model",
                      read_file("tests/goldens/tokenizer/spm/tokenizer.model"));
    write_file_atomic(folder + "/tokenizer_config.json", c["config"].dump());
    int64_t dropped = 0, cut = 0;
    auto e = encode_pesc_compat(data, "data.json", Tokenizer::load(folder),
                                golden["seq"].get<int64_t>(), dropped);
    CHECK(dropped == 1);
    auto rows = pack(e, Packing::kNone, golden["seq"].get<int64_t>(), 0, 0, cut);
    REQUIRE(rows.size() == c["rows"].size());
    for (size_t i = 0; i < rows.size(); ++i) {
      CAPTURE(c["rows"][i]["row"].get<int>());
      CHECK(rows[i].ids == c["rows"][i]["input_ids"].get<std::vector<int32_t>>());
      CHECK(rows[i].labels == c["rows"][i]["labels"].get<std::vector<int32_t>>());
    }
  }
}

TEST_CASE("pesc data: of the authors' mask only an <unk> before the cut takes a token away") {
  const std::string dir = "tests/goldens/pesc_data/", folder = "build/test-pesc-tokenizer";
  const Json c = read_json_file(dir + "golden.json")["cases"][0];
  std::filesystem::create_directories(folder);
  write_file_atomic(folder + "/tokenizer.model",
                    read_file("tests/goldens/tokenizer/spm/tokenizer.model"));
  write_file_atomic(folder + "/tokenizer_config.json", c["config"].dump());
  const Tokenizer tok = Tokenizer::load(folder);
  // The golden's row with an <unk> at 16 and 25 of a prompt of 46 tokens.
  for (auto [seq, masked] : {std::pair<int64_t, int64_t>{60, 44}, {30, 28}, {20, 19}, {16, 16}}) {
    CAPTURE(seq);
    int64_t dropped = 0, cut = 0;
    auto e = encode_pesc_compat(read_dataset(dir + "data.json", false), "file", tok, seq, dropped);
    auto rows = pack(e, Packing::kNone, seq, 0, 0, cut);
    const TrainRow& row = rows.at(7);
    REQUIRE(row.ids.at(0) == tok.bos());
    if (seq > 16) REQUIRE(row.ids.at(16) == 0);
    CHECK(std::count(row.labels.begin(), row.labels.end(), -100) == masked);
    CHECK(std::all_of(row.labels.begin(), row.labels.begin() + masked,
                      [](int32_t l) { return l == -100; }));
  }
}

TEST_CASE("pesc data: what no row holds, and roles the prompt has not") {
  Tokenizer tok = Tokenizer::load("tests/goldens/esft_train/model");
  const ChatTemplate chat = pesc_template(tok);
  CHECK_THROWS_WITH_AS(rows(R"({"corpus":""})"), doctest::Contains("corpus"), Error);
  CHECK_THROWS_WITH_AS(rows(R"({"corpus":1})"), doctest::Contains("corpus"), Error);
  CHECK(rows(R"({"corpus":"wiki","text":"a"})").rows[0].text == "a");
  CHECK_THROWS_WITH_AS(chat.render({{"tool", "x"}}, false), doctest::Contains("tool"), Error);
}
