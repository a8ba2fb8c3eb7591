#pragma once
// A pickle of a torch state dict as data: an interpreter of the opcodes that torch.save writes,
// with a list of the only globals it may name (what torch.load(weights_only=True) allows for
// tensors). It calls nothing; everything else is refused by name.

#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tensor.h"

namespace sutor {

struct PickleValue {
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kStorage,
    kTensor,
    kMark
  };
  Kind kind = Kind::kNone;
  int64_t number = 0;                     // kBool, kInt; kStorage: elements
  std::string text;                       // kString, kGlobal; kStorage: its key
  std::vector<const PickleValue*> items;  // kTuple, kList; kDict: key, value, key, value, ...
  // kStorage; kTensor: items[0] is its storage
  DType dtype = DType::F32;
  int64_t offset = 0;
  Shape shape, stride;
};

// The value of the whole pickle; it lives in `values`, as does all it refers to.
const PickleValue& read_pickle(std::string_view bytes, const std::string& where,
                               std::deque<PickleValue>& values);

const char* name_of(PickleValue::Kind kind);

}  // namespace sutor
