// safetensors: byte-exact round trip and a table of corruptions, each with the error it must give.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "io/safetensors.h"
#include "io/safetensors_writer.h"

using namespace sutor;
namespace fs = std::filesystem;

namespace {

struct TempDir {
  fs::path path = fs::temp_directory_path() / fmt::format("sutor-st-{}", getpid());
  TempDir() { fs::remove_all(path), fs::create_directory(path); }
  ~TempDir() { fs::remove_all(path); }
  std::string operator/(const std::string& f) const { return (path / f).string(); }
};

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::string file_of(const std::string& header, size_t data) {
  uint64_t n = header.size();
  return std::string(reinterpret_cast<char*>(&n), 8) + header + std::string(data, 'x');
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

NamedTensors sample() {
  Tensor f = empty({3, 4}), b = zeros({5}, DType::BF16), s = empty({}, DType::I64),
         z = empty({0, 7});
  for (int i = 0; i < 12; ++i) f.f32()[i] = i * 0.5f;
  *s.as<int64_t>() = 42;
  return {{"f", f}, {"b", b}, {"s", s}, {"z", z}, {"cols", f.columns(1, 3)}};
}

void same(const Checkpoint& c, const NamedTensors& all) {
  CHECK(c.names().size() == all.size());
  for (const auto& [name, t] : all) {
    Tensor got = c.get(name), want = clone(t);
    CHECK(got.dtype == t.dtype);
    CHECK(got.shape == t.shape);
    CHECK(std::memcmp(got.data, want.data, want.nbytes()) == 0);
  }
}

}  // namespace

TEST_CASE("safetensors: round trip") {
  TempDir d;
  auto all = sample();
  write_checkpoint(d.path.string(), all);
  same(Checkpoint::open(d.path.string()), all);
  std::string first = read_file(d / "model.safetensors");
  CHECK(first.substr(8, 60).find(R"({"__metadata__":{"format":"pt"},"s":{"dtype":"I64")") == 0);
  save_safetensors(d / "again.safetensors", all);
  CHECK(read_file(d / "again.safetensors") == first);
  fs::remove(d / "model.safetensors");
  fs::remove(d / "again.safetensors");
  write_checkpoint(d.path.string(), all, 40);
  CHECK(fs::exists(d / "model.safetensors.index.json"));
  same(Checkpoint::open(d.path.string()), all);
}

TEST_CASE("safetensors: corruptions") {
  TempDir d;
  std::string good = one("\"F32\"", "[2]", "[0,8]");
  auto two = [](const char* x, const char* y) {
    return fmt::format(
        R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
        x, y);
  };
  auto raw = [](uint64_t n) { return std::string(reinterpret_cast<char*>(&n), 8) + "{}"; };
  const std::string bad = "InvalidHeaderDeserialization";
  struct Row {
    std::string bytes, expect;
  };
  std::vector<Row> rows = {
      {"", "HeaderTooSmall"},
      {"1234567", "HeaderTooSmall"},
      {raw(100'000'001), "HeaderTooLarge"},
      {raw(~uint64_t{0}), "HeaderTooLarge"},
      {raw(3), "InvalidHeaderLength"},
      {file_of("{\"\xff\":1}", 0), "InvalidHeader: not UTF-8"},
      {file_of("{\"\xc0\x80\":1}", 0), "InvalidHeader: not UTF-8"},
      {file_of("", 0), "must start with '{'"},
      {file_of(" {}", 0), "must start with '{'"},
      {file_of("[]", 0), "must start with '{'"},
      {file_of("{", 0), bad},
      {file_of("{} x", 0), bad},
      {file_of(R"({"a":1,"a":1})", 0), "duplicate key \"a\""},
      {file_of(R"({"a":[[[[[[[[[[]]]]]]]]]]})", 0), "nested deeper"},
      {file_of(R"({"a":1})", 0), "expected an object"},
      {file_of(R"({"__metadata__":1})", 0), "__metadata__ must be an object"},
      {file_of(R"({"__metadata__":{"k":1}})", 0), "must be a string, found number"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "\"data_offsets\" is missing"},
      {file_of(one("\"F99\"", "[2]", "[0,8]"), 8), "unknown dtype \"F99\""},
      {file_of(one("7", "[2]", "[0,8]"), 8), "\"dtype\" must be a string"},
      {file_of(one("\"F32\"", "[-2]", "[0,8]"), 8), "integers >= 0, found -2"},
      {file_of(one("\"F32\"", "[2.5]", "[0,8]"), 8), "integers >= 0, found 2.5"},
      {file_of(one("\"F32\"", "2", "[0,8]"), 8), "\"shape\" must be an array"},
      {file_of(one("\"F32\"", "[2]", "[0,8,9]"), 8), "2 entries, found 3"},
      {file_of(one("\"F32\"", "[2]", "[8,0]"), 8), "InvalidOffset"},
      {file_of(one("\"F32\"", "[2]", "[4,12]"), 12), "InvalidOffset"},
      {file_of(two("[0,4]", "[5,9]"), 9), "InvalidOffset"},
      {file_of(two("[0,4]", "[2,6]"), 6), "InvalidOffset"},
      {file_of(one("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8), "ValidationOverflow"},
      {file_of(one("\"F32\"", "[4611686018427387904]", "[0,8]"), 8), "ValidationOverflow"},
      {file_of(one("\"F4\"", "[3]", "[0,1]"), 1), "MisalignedSlice"},
      {file_of(one("\"F32\"", "[3]", "[0,8]"), 8), "TensorInvalidInfo"},
      {file_of(good, 9), "MetadataIncompleteBuffer"},
      {file_of(good, 7), "MetadataIncompleteBuffer"},
      {file_of(good + "  ", 8), "no error"},
  };
  for (const Row& r : rows) {
    write_file_atomic(d / "x.safetensors", r.bytes);
    std::string e = error_of([&] { SafetensorsFile f(d / "x.safetensors"); });
    CAPTURE(e);
    CHECK(e.find(r.expect) != std::string::npos);
  }
  write_file_atomic(d / "x.safetensors", file_of(good, 8));
  auto index = [&](const std::string& text) {
    write_file_atomic(d / "model.safetensors.index.json", text);
    return error_of([&] { Checkpoint::open(d.path.string()); });
  };
  CHECK(index(R"({"weight_map":{"a":"x.safetensors"}})") == "no error");
  CHECK(index(R"({"weight_map":{"a":"../x.safetensors"}})").find("not a plain file name") !=
        std::string::npos);
  CHECK(index(R"({"weight_map":{"a":".."}})").find("not a plain file name") != std::string::npos);
  CHECK(index(R"({"weight_map":{"a":"y.safetensors"}})").find("shard y.safetensors is missing") !=
        std::string::npos);
  CHECK(index(R"({"weight_map":{"b":"x.safetensors"}})").find("tensor b is not in its shard") !=
        std::string::npos);
  CHECK(index(R"({"weight_map":{"a":1}})").find("must be a string") != std::string::npos);
  CHECK(index(R"({})").find("\"weight_map\" is missing") != std::string::npos);
  Tensor t = zeros({2});
  save_safetensors(d / "x.safetensors", {{"a", t}, {"b", t}});
  CHECK(index(R"({"weight_map":{"a":"x.safetensors"}})")
            .find("tensor b of x.safetensors is not in weight_map") != std::string::npos);
}
