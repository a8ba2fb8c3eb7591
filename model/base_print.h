#pragma once
// Which base an adapter was trained on: a fingerprint in its safetensors file's __metadata__, so
// that other weights of the same shapes are told apart. It hashes name, shape and the first 256
// values, rounded to bf16 (so the f32 and the bf16 copy of a model are one), of every base tensor
// that the adapter does not hold itself: of a mapped file the first page of each tensor is read.
// PEFT and transformers ignore the keys. Test: tests/base_print.cpp.

#include <functional>
#include <map>
#include <string>

#include "io/weights.h"
#include "model/model.h"

namespace sutor {

// Of what trains in `model` as it stands, before a step changes it and before --quantize packs it:
// into model.base, from where write_adapter() takes it. Nothing in a dry run.
void record_base(Model& model);

// model.base as __metadata__; empty where nothing was recorded.
std::map<std::string, std::string> base_metadata(const Model& model);

// `held`: what the adapter in `dir`, whose tensors are `files`, has put into the model. Throws when
// the fingerprint in `files` is neither that of the model as it was opened nor that of the model
// with the adapters so far. Where either base is packed in few bits and they differ, it leaves a
// notice, as nobody can tell; without a fingerprint it does nothing.
void check_base(Model& model, const Checkpoint& files, const std::string& dir,
                const std::function<bool(const Param&)>& held);

// The hash of one tensor, which the fingerprint sums.
uint64_t sample_of(const std::string& name, const Tensor& t);

}  // namespace sutor
