#include "model/model.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "engine/dry_run.h"
#include "engine/name_hash.h"
#include "engine/parallel.h"
#include "engine/quant.h"
#include "engine/random.h"
#include "model/family.h"
#include "model/names.h"
#include "model/quantization.h"
#include "model/weights.h"

namespace sutor {

Batch make_batch(const std::vector<std::vector<int32_t>>& ids) { return make_batch(ids, {}, {}); }

Batch make_batch(const std::vector<std::vector<int32_t>>& ids,
                 const std::vector<std::vector<int32_t>>& labels,
                 const std::vector<std::vector<int32_t>>& starts) {
  int64_t T = 0;
  for (const auto& r : ids) T += static_cast<int64_t>(r.size());
  Batch b{empty({T}, DType::I32),
          empty({T}, DType::I32),
          empty({T}, DType::I32),
          empty({T}, DType::I32),
          {0}};
  int32_t at = 0;
  for (size_t r = 0; r < ids.size(); ++r) {
    int32_t first = at, n = static_cast<int32_t>(ids[r].size());
    for (int32_t i = 0; i < n; ++i, ++at) {
      int32_t doc = first + (starts.empty() ? 0 : starts[r][i]);
      b.ids.i32()[at] = ids[r][i];
      b.start.i32()[at] = doc;
      b.positions.i32()[at] = at - doc;
      int32_t next = labels.empty() || i + 1 == n ? -100 : labels[r][i + 1];
      // A token never predicts the first one of the next document.
      if (!starts.empty() && i + 1 < n && starts[r][i + 1] == i + 1) next = -100;
      b.targets.i32()[at] = next < 0 ? -1 : next;
    }
    b.rows.push_back(at);
  }
  return b;
}

std::unique_ptr<Model> make_model(const Config& config, WeightSource source) {
  auto model = family(config.model_type).make(config, std::move(source));
  model->params.source = nullptr;                   // what it holds (maps, unpacked tensors) goes
  model->config.json.erase("quantization_config");  // weights are unpacked, so are what is written
  if (!config.unread.empty())
    model->notices.push_back(fmt::format("{}: {} without effect on a {} model; misspelt? {}",
                                         config.where, config.unread.size() == 1 ? "a key" : "keys",
                                         config.model_type, fmt::join(config.unread, ", ")));
  return model;
}

void check_weight_type(const Tensor& t, const std::string& where, const std::string& name) {
  check(t.dtype == DType::F32 || t.dtype == DType::BF16 || t.dtype == DType::F16 ||
            is_packed(t.dtype),
        "{}: {} is {}, supported: F32, BF16, F16, NF4", where, name, name_of(t.dtype));
}

namespace {

// model.layers.N.*, N = the layers of the model and on.
bool is_unused_layer(const Config& c, const std::string& name) {
  int64_t layer = role_of(name).layer;
  return name.starts_with("model.layers.") && layer >= c.layers &&
         layer < c.layers + c.unused_layers;
}

}  // namespace

std::unique_ptr<Model> load_model(const std::string& folder, Compute compute) {
  Config config = read_config(folder);
  check_quantization(config);
  auto files = open_weights(folder, config.model_type, compute);
  auto model = make_model(config, [files, folder](const std::string& name, const Shape& shape) {
    check(files->has(name), "{}: the checkpoint has no tensor {}", folder, name);
    const TensorInfo& info = files->info(name);
    check(info.shape == shape, "{}: {} has shape {}, config.json asks for {}", folder, name,
          to_string(info.shape), to_string(shape));
    Tensor t = files->get(name);
    check_weight_type(t, folder, name);
    return t;
  });
  int left_out = 0;
  for (const std::string& name : files->names()) {
    const std::string& type = files->info(name).dtype;
    if (type == "NF4" || block_format(type) != nullptr) model->base.packed = type;
    if (is_unused_layer(config, name)) {
      ++left_out;
      continue;
    }
    check(config.adapter_dim > 0 || name.find(".mlp.moe_adapter.") == name.npos,
          "{}: tensor {} is of a PESC model, yet config.json has none of adapter_dim, moe_scaling, "
          "moe_dtype: add adapter_dim, num_experts, topk, moe_scaling",
          folder, name);
    bool known = model->params.has(name) || name.ends_with("rotary_emb.inv_freq") ||
                 (config.tie_embeddings && name == "lm_head.weight");
    check(known, "{}: tensor {} belongs to no part of a {} model with this config.json", folder,
          name, config.model_type);
  }
  // transformers takes both tensors as they are when they differ; a model has one of them here.
  if (config.tie_embeddings && files->has("lm_head.weight") && !dry_run()) {
    Tensor head = files->get("lm_head.weight");
    const Tensor& embed = model->head().value;
    check(head.shape == embed.shape && head.dtype == embed.dtype &&
              std::memcmp(head.data, embed.data, embed.nbytes()) == 0,
          "{}: tie_word_embeddings is true, but lm_head.weight is not the embedding: set it to "
          "false in config.json to use both",
          folder);
  }
  if (left_out > 0)
    model->notices.push_back(fmt::format(
        "{}: {} tensors of the multi-token-prediction layers behind layer {} are left out", folder,
        left_out, config.layers - 1));
  return model;
}

uint64_t seed_of(uint64_t seed, std::string_view name) { return name_hash(seed, name); }

WeightSource random_source(const Config& config, uint64_t seed, DType dtype) {
  double std = config.init_std;
  return [std, seed, dtype](const std::string& name, const Shape& shape) {
    if (dry_run()) return empty(shape, dtype);
    Tensor t = empty(shape);
    float* p = t.f32();
    int64_t n = t.numel();
    bool bias = name.ends_with("bias");
    if (bias || name.ends_with("norm.weight")) {
      std::fill(p, p + n, bias ? 0.0f : 1.0f);
      return dtype == DType::F32 ? t : cast(t, dtype);
    }
    const uint64_t start = seed_of(seed, name);
    parallel_for((n + 1) / 2, 1 << 12, [&](int64_t lo, int64_t hi) {
      uint64_t state = random_after(start, 2 * lo);
      auto uniform = [&state] {
        return (static_cast<double>(next_random(state) >> 11) + 0.5) * 0x1p-53;
      };
      for (int64_t i = 2 * lo; i < std::min(n, 2 * hi); i += 2) {  // Box-Muller
        double r = std * std::sqrt(-2 * std::log(uniform())), a = 2 * std::numbers::pi * uniform();
        p[i] = static_cast<float>(r * std::cos(a));
        if (i + 1 < n) p[i + 1] = static_cast<float>(r * std::sin(a));
      }
    });
    return dtype == DType::F32 ? t : cast(t, dtype);
  };
}

}  // namespace sutor
