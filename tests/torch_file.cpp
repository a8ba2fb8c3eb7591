// torch .bin: files that torch wrote (tests/goldens/make_torch_files.py) give its tensors; a table
// of corruptions, each with the error it must give; a pickle that would run a program is refused.
#include "io/torch_file.h"

#include <doctest/doctest.h>

#include "io/safetensors.h"
#include "tests/command.h"
#include "tests/corruption.h"
#include "tests/testing.h"
#include "tests/torch_writer.h"

using namespace sutor;
using namespace sutor::test;

namespace {

const std::string kGoldens = "tests/goldens/torch_file/";

void same(const Weights& got, const Weights& want) {
  CHECK(got.names().size() == want.names().size());
  for (const std::string& name : want.names()) {
    CAPTURE(name);
    REQUIRE(got.has(name));
    CHECK(same_bits(got.get(name), want.get(name)));
    CHECK(got.info(name).shape == want.info(name).shape);
    CHECK(got.info(name).dtype == want.info(name).dtype);
  }
}

}  // namespace

TEST_CASE("torch file: what torch wrote") {
  Checkpoint want = Checkpoint::open(kGoldens + "all.safetensors");
  same(Checkpoint::open(kGoldens + "all.bin"), want);
  same(Checkpoint::open(kGoldens + "protocol4.pt"), want);
  Checkpoint module = Checkpoint::open(kGoldens + "module.safetensors");
  same(Checkpoint::open(kGoldens + "module.bin"), module);
  same(Checkpoint::open(kGoldens + "sharded"), module);
  TorchFile file(kGoldens + "all.bin");
  CHECK(file.get("f32").data == file.get("tied").data);  // views into the map
}

TEST_CASE("torch file: corruptions") {
  Folder f;
  const std::string t = text("w") + tensor("torch\nFloatStorage", "0", 4, 0, {2, 2}, {2, 1});
  const std::string data(16, 'x');
  auto archive = [&](const std::string& pkl, const std::string& bytes) {
    return zip_of({{"m/data.pkl", pkl}, {"m/data/0", bytes}});
  };
  auto with = [&](const std::string& items) { return archive(dict(items), data); };
  auto one = [&](int64_t n, int64_t offset, std::vector<int64_t> shape,
                 std::vector<int64_t> stride) {
    return with(text("w") + tensor("torch\nFloatStorage", "0", n, offset, shape, stride));
  };
  auto raw = [&](const std::string& pkl) { return archive(pkl, data); };
  std::string good = with(t), cut = good;
  cut.resize(good.size() - 1);
  auto patched = [&](size_t from_end, std::string bytes) {
    std::string s = good;
    return s.replace(s.size() - from_end, bytes.size(), bytes);
  };
  std::vector<Corruption> rows = {
      {good, "no error"},
      {"", "not a zip archive"},
      {"PK\x03\x04", "too few for an archive"},
      {cut, "no end record"},
      {good + "x", "no end record"},
      {patched(6, le<uint32_t>(1 << 30)), "does not fit the file"},
      {patched(12, le<uint16_t>(9)), "does not fit the file"},
      {patched(12, le<uint16_t>(1)), "storage 0 is not in the archive"},
      {patched(6, le<uint32_t>(0)), "entry 0 of the directory is damaged"},
      {zip_of({{"m/data.pkl", dict(t)}}, 8), "compressed (method 8)"},
      {zip_of({{"m/data.pkl", dict(t)}, {"m/data.pkl", dict(t)}}), "is there twice"},
      {zip_of({{"m/data.pkl", dict(t)}, {"n/data.pkl", dict(t)}}), "two data.pkl"},
      {zip_of({{"x", "y"}}), "no NAME/data.pkl"},
      {zip_of({{"m/data.pkl", dict(t)}, {"m/byteorder", "big"}}), "byteorder is \"big\""},
      {archive(dict(t), data + "x"), "should hold 4 F32, has 17 bytes"},
      {archive(dict(t), ""), "should hold 4 F32, has 0 bytes"},
      {with(t + t), "tensor w is there twice"},
      {with(integer(1) + integer(2)), "a key of the dict is an integer"},
      {with(text("w") + integer(2)), "key \"w\" holds an integer"},
      {with(text("w")), "a key without a value"},
      {one(4, 1, {2, 2}, {2, 1}), "does not fit storage"},
      {one(4, -1, {2, 2}, {2, 1}), "does not fit storage"},
      {one(4, 0, {5}, {0}), "does not fit storage"},
      {one(4, 5, {0}, {1}), "does not fit storage"},
      {one(4, 0, {2, 2}, {3, 1}), "does not fit storage"},
      {one(4, 0, {2147483647, 2147483647, 2147483647}, {0, 0, 0}), "does not fit storage"},
      {one(4, 0, {-2, 2}, {2, 1}), "integers >= 0"},
      {one(4, 0, {2, 2}, {2}), "2 dimensions has 1 strides"},
      {one(-4, 0, {2, 2}, {2, 1}), "storage 0 has -4 elements"},
      {with(text("w") + tensor("torch\nEvilStorage", "0", 4, 0, {4}, {1})),
       "asks for torch.EvilStorage, which is not allowed"},
      {with(text("w") + tensor("torch\nfloat32", "0", 4, 0, {4}, {1})), "is no type of storage"},
      {raw("\x80\x07}."), "protocol 7"},
      {raw("\x80\x02"), "cut off"},
      {raw(""), "cut off"},
      {raw("\x80\x02}(X\xff\xff\xff\xff"), "cut off"},
      {raw(pickle("}}")), "2 values on the stack"},
      {raw("."), "0 values on the stack"},
      {raw(pickle("]")), "holds a list"},
      {raw(pickle("u")), "no mark"},
      {raw(pickle("(u")), "nothing on the stack"},
      {raw(pickle("h\x05")), "memo 5 is empty"},
      {raw(pickle("cposix\nsystem\n")), "asks for posix.system, which is not allowed"},
      {raw(pickle("cos")), "cut off"},
      {raw(pickle("ctorch\nfloat32\n)R")), "calls torch.float32"},
      {raw(pickle("ccollections\nOrderedDict\n(NtR")), "OrderedDict with arguments"},
      {raw(pickle("i")), "opcode 0x69"},
      {raw(pickle("\x8a\x09" + std::string(9, 'x'))), "an integer of 9 bytes"},
      {raw(pickle("(" + text("module") + "tQ")), "kind \"module\""},
      {raw(pickle(")Q")), "found nothing"},
      {raw(pickle("K\x01Q")), "a tuple expected"},
  };
  check_corruptions(rows, [&](const std::string& bytes) {
    write_file_atomic(f / "x.bin", bytes);
    TorchFile file(f / "x.bin");
  });
  // A dimension of size 1 may have any stride.
  const std::string big = integer(2147483647);
  std::string strides = tensor("torch\nFloatStorage", "0", 4, 0, {2, 1, 2}, {1, 2147483647, 2});
  strides.replace(strides.find(big), big.size(), "\x8a\x08" + le(int64_t{INT64_MAX}));
  const float values[] = {0, 1, 2, 3};
  write_file_atomic(f / "x.bin", archive(dict(text("w") + strides),
                                         {reinterpret_cast<const char*>(values), sizeof values}));
  CHECK(dense(TorchFile(f / "x.bin").get("w")) == Doubles{0, 2, 1, 3});
  auto golden = [](const std::string& file) {
    return error_of([&] { Checkpoint::open(kGoldens + file); });
  };
  CHECK(golden("legacy.bin").find("written by torch before 1.6") != std::string::npos);
  CHECK(golden("evil.bin").find("posix.system, which is not allowed") != std::string::npos);
  CHECK(golden("nested.pt").find("key \"model\" holds a dict") != std::string::npos);
}
