#include "model/quantization.h"

#include "model/fp8.h"
#include "model/reader.h"

namespace sutor {
namespace {

// A switch that has to stand as given, or be absent.
void fixed(const Reader& r, const char* key, bool want) {
  check(r.value(key, want) == want, "{}: {} is {}, allowed: {}", r.where, key, !want, want);
}

void check_bitsandbytes(const Reader& r) {
  for (const char* key : {"load_in_8bit", "_load_in_8bit"}) fixed(r, key, false);
  for (const char* key : {"load_in_4bit", "_load_in_4bit"}) fixed(r, key, true);
  r.choice("bnb_4bit_quant_type", "nf4", {"nf4"});
  r.choice("bnb_4bit_quant_storage", "uint8", {"uint8"});
  r.value("bnb_4bit_use_double_quant", false);  // the tensors tell; both are read
  for (const char* key : {"bnb_4bit_blocksize", "blocksize"})
    if (r.has(key)) {
      const auto size = r.value<int64_t>(key, 64);
      check(size == 64, "{}: {} is {}, allowed: 64", r.where, key, size);
    }
}

void check_fp8(const Reader& r) {
  r.choice("fmt", "e4m3", {"e4m3"});
  r.choice("activation_scheme", "dynamic", {"dynamic"});
  if (!r.has("weight_block_size")) return;
  const Json& size = r.j.at("weight_block_size");
  check(size == Json({kFp8Block, kFp8Block}), "{}: weight_block_size is {}, allowed: [{}, {}]",
        r.where, size.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60), kFp8Block,
        kFp8Block);
}

}  // namespace

void check_quantization(const Config& config) {
  constexpr const char* kKey = "quantization_config";
  if (!config.json.contains(kKey) || config.json.at(kKey).is_null()) return;
  const Json& q = config.json.at(kKey);
  check(q.is_object(), "{}: {} is {}, must be an object", config.where, kKey, q.type_name());
  const Reader r{q, config.where + ": " + kKey};
  // Older files of bitsandbytes name no method.
  const bool bits = q.contains("load_in_4bit") || q.contains("load_in_8bit");
  const std::string method =
      r.choice("quant_method", bits ? "bitsandbytes" : "", {"bitsandbytes", "fp8"});
  method == "fp8" ? check_fp8(r) : check_bitsandbytes(r);
}

}  // namespace sutor
