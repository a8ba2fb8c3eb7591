// The dry kernels (what each allocates: the CPU kernel of the same name in engine/cpu) and the
// bookkeeping around one dry step.

#include "model/estimate.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "engine/cpu/columns.h"
#include "engine/dry_run.h"
#include "io/safetensors.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

struct Count {
  double product = 0, attention = 0;
  int64_t sums = 0;  // bytes of a thread's scratch beside the packed panels
};
thread_local Count counted;

double size(int64_t a, int64_t b, int64_t c) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

void dry_linear(Ctx& ctx, const Tensor& x, const Tensor& w) {
  int64_t tokens = x.rows(), n = w.dim(0), k = w.dim(1);
  counted.product += 2 * size(tokens, n, k);
  const cpu::MicroKernels& mk = cpu::micro_kernels(ctx.compute);
  if (cpu::takes_dots(mk, tokens)) return;
  cpu::make_panels(mk, cpu::panels_of(tokens), k);
}

// Sums that sweep_columns() holds.
void count_columns(int64_t tokens, int64_t lines, int64_t sharers) {
  const int64_t panels = cpu::panels_of(tokens);
  if (panels <= cpu::kFewTokens)
    counted.sums =
        std::max(counted.sums, cpu::wide_of(cpu::panels_of(lines), sharers) * panels * 4096);
}

void dry_linear_grad(Ctx& ctx, const Tensor& dx, const Tensor& dw, const Tensor& dy,
                     const Tensor& w) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(ctx.compute);
  int64_t tokens = dy.rows(), n = w.dim(0), k = w.dim(1);
  if (dx) {
    counted.product += 2 * size(tokens, n, k);
    count_columns(tokens, k, 1);
    cpu::make_panels(mk, cpu::panels_of(tokens), n);
  }
  if (!dw) return;
  counted.product += 2 * size(tokens, n, k);
  cpu::Panels a = cpu::make_panels(mk, cpu::panels_of(n), tokens),
              b = cpu::make_panels(mk, cpu::panels_of(k), tokens);
}

void dry_lora(Ctx& ctx, const Tensor& x, const Tensor& w, int64_t rank) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(ctx.compute);
  int64_t tokens = x.rows(), n = w.dim(0), k = w.dim(1), panels = cpu::panels_of(tokens);
  counted.product += 2 * (size(tokens, n, k) + size(tokens, rank, k) + size(tokens, n, rank));
  if (cpu::takes_dots(mk, tokens)) return;
  {
    cpu::Panels a = cpu::make_panels(mk, cpu::panels_of(rank), k),
                dropped = cpu::make_panels(mk, panels, k);
  }
  cpu::Panels low = cpu::make_panels(mk, panels, rank), xp = cpu::make_panels(mk, panels, k);
}

void dry_lora_grad(Ctx& ctx, const Tensor& dx, const Tensor& dw, const Tensor& da,
                   const Tensor& dup, const Tensor& dy, const Tensor& w, int64_t rank) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(ctx.compute);
  int64_t tokens = dy.rows(), n = w.dim(0), k = w.dim(1), panels = cpu::panels_of(tokens);
  double with_a = 2 * size(tokens, rank, k), with_b = 2 * size(tokens, n, rank);
  counted.product += (dx ? 2 * size(tokens, n, k) + with_a : 0) + (da ? with_a : 0) +
                     (dup ? with_b : 0) + (dx || da ? with_b : 0);
  if (dw) dry_linear_grad(ctx, {}, dw, dy, w);
  auto across = [&](int64_t lines) { return cpu::make_panels(mk, cpu::panels_of(lines), tokens); };
  if (dup) cpu::Panels dyp = across(n), low = across(rank);
  if (!dx && !da) return;
  Tensor dlow = empty({tokens, rank});
  {
    cpu::Panels dyp = cpu::make_panels(mk, panels, n),
                factor = cpu::make_panels(mk, cpu::panels_of(rank), n);
  }
  if (da) cpu::Panels low = across(rank), dropped = across(k);
}

// Multiply-adds of all heads per column of q, k or v: pairs of tokens that see each other.
double seen_pairs(const Tensor& start, int64_t tokens, int heads) {
  double pairs = 0;
  for (int64_t t = 0; t < tokens; ++t)
    pairs += static_cast<double>(t + 1 - (start ? start.i32()[t] : 0));
  return pairs * heads;
}

void dry_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& start,
                   int heads, int kv_heads) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(Compute::kF32);
  int64_t tokens = k.rows() / kv_heads, blocks = cpu::panels_of(tokens);
  counted.attention +=
      2 * seen_pairs(start, tokens, heads) * static_cast<double>(q.cols() + v.cols());
  cpu::Panels kp = cpu::make_panels(mk, blocks * kv_heads, q.cols()),
              vp = cpu::make_panels(mk, blocks * kv_heads * cpu::panels_of(v.cols()), 32);
}

void dry_attention_grad(const Tensor& k, const Tensor& v, const Tensor& start, int heads,
                        int kv_heads) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(Compute::kF32);
  int64_t tokens = k.rows() / kv_heads, blocks = cpu::panels_of(tokens),
          dp = cpu::panels_of(k.cols()), dvp = cpu::panels_of(v.cols());
  counted.attention +=
      2 * seen_pairs(start, tokens, heads) * static_cast<double>(3 * k.cols() + 2 * v.cols());
  std::vector<cpu::Panels> at_once;
  std::vector<Tensor> sums;
  for (int i = 0; i < std::min(kv_heads, num_threads()); ++i) {  // one key/value head a thread
    for (auto [count, p] : {std::pair{blocks, k.cols()}, {blocks, v.cols()}, {blocks * dp, 32}})
      at_once.push_back(cpu::make_panels(mk, count, p));
    sums.push_back(empty({blocks * (dp + dvp), 1024}));
  }
}

int64_t token_panels(const MoeIndex& index) {
  int64_t n = 0;
  for (size_t e = 0; e + 1 < index.offset.size(); ++e)
    n += cpu::panels_of(index.offset[e + 1] - index.offset[e]);
  return n;
}

void dry_moe(Ctx& ctx, const Tensor& x, const MoeIndex& index, const ExpertWeights& w) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(ctx.compute);
  int64_t pairs = x.rows() * index.top_k, hidden = x.cols(), inter = w.gate[0].dim(0);
  counted.product += 6 * size(pairs, hidden, inter);
  bool any_small = false, any_few = false, any_large = false;
  for (size_t e = 0; e + 1 < index.offset.size(); ++e) {
    int64_t n = index.offset[e + 1] - index.offset[e];
    bool small = n <= cpu::kDecodeTokens;
    if (n > 0) (small ? any_small : cpu::takes_dots(mk, n) ? any_few : any_large) = true;
  }
  cpu::Panels xp, ap;
  Tensor act, few_x, few_act;
  if (any_large) {
    xp = cpu::make_panels(mk, token_panels(index), hidden);
    ap = cpu::make_panels(mk, token_panels(index), inter);
  }
  if (any_few) {
    few_x = empty({pairs, cpu::few_words(mk, hidden)});
    few_act = empty({pairs, cpu::few_words(mk, inter)});
  }
  if (any_small) act = empty({pairs, inter});
  empty({pairs, hidden});
}

void dry_moe_grad(Ctx& ctx, const Tensor& dx, const ExpertWeights* dw, const Tensor& dy,
                  const MoeIndex& index, const ExpertWeights& w) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(ctx.compute);
  int64_t pairs = dy.rows() * index.top_k, hidden = dy.cols(), inter = w.gate[0].dim(0),
          panels = token_panels(index), steps = 0, active = 0;
  for (size_t e = 0; e + 1 < index.offset.size(); ++e)
    active += index.offset[e + 1] > index.offset[e];
  for (size_t e = 0; e + 1 < index.offset.size(); ++e) {
    int64_t n = index.offset[e + 1] - index.offset[e];
    counted.product += 2 * size(n, hidden, inter);
    count_columns(n, std::max(hidden, inter), active);
    if (dx) counted.product += 4 * size(n, hidden, inter);
    if (!dw) continue;
    for (const Tensor* g : {&dw->gate[e], &dw->up[e], &dw->down[e]})
      if (*g) counted.product += 2 * size(n, hidden, inter);
    if (dw->gate[e] || dw->up[e] || dw->down[e]) steps += cpu::panels_of(n) * (32 / mk.step);
  }
  auto transposed = [&](int64_t lines) {
    return empty({cpu::panels_of(lines) * steps * 2048}, DType::U8);
  };
  cpu::Panels dyp = cpu::make_panels(mk, panels, hidden), dgp, dup;
  if (dx) dgp = cpu::make_panels(mk, panels, inter), dup = cpu::make_panels(mk, panels, inter);
  Tensor dgt = transposed(inter), dut = transposed(inter), wat = transposed(inter);
  Tensor dots = empty({pairs, cpu::panels_of(inter)});
  if (dx) {
    dyp = {};
    empty({pairs, hidden});
  }
  if (steps == 0) return;
  Tensor xt = transposed(hidden), dyt = transposed(hidden);
}

void dry_adapter(Ctx& ctx, const Tensor& x, const MoeIndex& index, const AdapterWeights& w) {
  int64_t pairs = x.rows() * index.top_k, width = w.down[0].dim(0);
  counted.product += 4 * size(pairs, x.cols(), width);
  bool any_small = false, any_large = false;
  for (size_t e = 0; e + 1 < index.offset.size(); ++e) {
    int64_t n = index.offset[e + 1] - index.offset[e];
    if (n > 0) (n <= cpu::kDecodeTokens ? any_small : any_large) = true;
  }
  cpu::Panels ap;
  if (any_large) ap = cpu::make_panels(cpu::micro_kernels(ctx.compute), token_panels(index), width);
  if (any_small) empty({pairs, width});
}

void dry_adapter_grad(Ctx& ctx, const Tensor& dx, const AdapterWeights* dw, const Tensor& dy,
                      const MoeIndex& index, const AdapterWeights& w) {
  const cpu::MicroKernels& mk = cpu::micro_kernels(ctx.compute);
  int64_t hidden = dy.cols(), width = w.down[0].dim(0), steps = 0;
  for (size_t e = 0; e + 1 < index.offset.size(); ++e) {
    int64_t n = index.offset[e + 1] - index.offset[e];
    counted.product += 2 * size(n, hidden, width);
    if (dx) counted.product += 2 * size(n, hidden, width);
    if (!dw) continue;
    for (const Tensor* g : {&dw->down[e], &dw->up[e]})
      if (*g) counted.product += 2 * size(n, hidden, width);
    if (dw->down[e] || dw->up[e]) steps += cpu::panels_of(n) * (32 / mk.step);
  }
  cpu::Panels dlp;
  if (dx) dlp = cpu::make_panels(mk, token_panels(index), width);
  int64_t transposed = cpu::panels_of(width) * steps * 2048;
  Tensor dlt = empty({transposed}, DType::U8), wat = empty({transposed}, DType::U8);
}

// Every expert gets the same number of tokens, spread over the batch.
void dry_route(const Tensor& expert, int64_t experts) {
  for (int64_t i = 0; i < expert.numel(); ++i) expert.i32()[i] = static_cast<int32_t>(i % experts);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
Backend make_dry_backend() {
  Backend b{
      "dry",
#define KERNEL(fn, sig) [] sig {},
#include "engine/kernels.def"
#undef KERNEL
  };
  b.linear_fwd = [](Ctx& ctx, Tensor, Tensor x, Tensor w, Tensor) { dry_linear(ctx, x, w); };
  b.linear_bwd = [](Ctx& ctx, Tensor dx, Tensor dw, Tensor, Tensor dy, Tensor, Tensor w) {
    dry_linear_grad(ctx, dx, dw, dy, w);
  };
  b.lora_linear_fwd = [](Ctx& ctx, Tensor, Tensor, Tensor x, Tensor w, Tensor, Tensor a, Tensor,
                         float, Dropout) { dry_lora(ctx, x, w, a.dim(0)); };
  b.lora_linear_bwd = [](Ctx& ctx, Tensor dx, Tensor dw, Tensor, Tensor da, Tensor dup, Tensor dy,
                         Tensor, Tensor w, Tensor, Tensor a, Tensor, float,
                         Dropout) { dry_lora_grad(ctx, dx, dw, da, dup, dy, w, a.dim(0)); };
  b.attention_fwd = [](Ctx&, Tensor, Tensor, Tensor q, Tensor k, Tensor v, Tensor start, int heads,
                       int kv_heads, float) { dry_attention(q, k, v, start, heads, kv_heads); };
  b.attention_bwd = [](Ctx&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor k,
                       Tensor v, Tensor start, int heads, int kv_heads,
                       float) { dry_attention_grad(k, v, start, heads, kv_heads); };
  b.moe_ffn_fwd = [](Ctx& ctx, Tensor, Tensor, Tensor, Tensor x, Tensor, const MoeIndex& index,
                     const ExpertWeights& w) { dry_moe(ctx, x, index, w); };
  b.moe_ffn_bwd = [](Ctx& ctx, Tensor dx, Tensor, ExpertWeights* dw, Tensor dy, Tensor, Tensor,
                     Tensor, Tensor, const MoeIndex& index,
                     const ExpertWeights& w) { dry_moe_grad(ctx, dx, dw, dy, index, w); };
  b.adapter_fwd = [](Ctx& ctx, Tensor, Tensor, Tensor x, Tensor, const MoeIndex& index,
                     const AdapterWeights& w, float, Dropout) { dry_adapter(ctx, x, index, w); };
  b.adapter_bwd = [](Ctx& ctx, Tensor dx, Tensor, AdapterWeights* dw, Tensor dy, Tensor, Tensor,
                     Tensor, const MoeIndex& index, const AdapterWeights& w, float,
                     Dropout) { dry_adapter_grad(ctx, dx, dw, dy, index, w); };
  b.moe_route_fwd = [](Ctx&, Tensor, Tensor, Tensor expert, Tensor logits, Tensor, RouteOptions) {
    dry_route(expert, logits.cols());
  };
  return b;
}
#pragma GCC diagnostic pop

// Live bytes after each block.
struct LayerTap : Trace {
  std::vector<int64_t> live{memory_stats().live};
  void activation(const std::string& name, const Tensor&) override {
    if (name == "model.embed_tokens" || name.starts_with("model.layers.")) {
      if (name == "model.embed_tokens") live.clear();
      live.push_back(memory_stats().live);
    }
  }
};

// Pages of a file that `rows` scattered rows of an embedding bring in (the system maps 16 pages
// around each fault).
int64_t touched_rows(const Param& p, const std::vector<Batch>& micro,
                     const std::vector<int32_t>& ids) {
  constexpr int64_t kAround = 16 * 4096;
  std::set<int64_t> windows;
  int64_t row = p.value.nbytes() / p.value.rows();
  auto touch = [&](int64_t id) {
    for (int64_t at = id * row / kAround; at <= ((id + 1) * row - 1) / kAround; ++at)
      windows.insert(at);
  };
  for (int32_t id : ids) touch(id);
  for (const Batch& b : micro)
    for (int64_t t = 0; t < b.ids.numel() && ids.empty(); ++t) touch(b.ids.i32()[t]);
  return std::min(p.value.nbytes(), static_cast<int64_t>(windows.size()) * kAround);
}

}  // namespace

bool has_weights(const std::string& folder_or_config) {
  if (fs::is_directory(folder_or_config)) return !weights_of_folder(folder_or_config).empty();
  return fs::path(folder_or_config).extension() == ".gguf";
}

std::unique_ptr<Model> dry_model(const std::string& folder_or_config, DType fallback,
                                 Compute compute) {
  DryRun dry;
  if (has_weights(folder_or_config)) return load_model(folder_or_config, compute);
  return make_model(
      read_config(folder_or_config),
      [fallback](const std::string&, const Shape& shape) { return empty(shape, fallback); });
}

Estimate estimate_training(Model& model, const std::vector<Batch>& micro,
                           const EstimateOptions& opt) {
  static const Backend backend = make_dry_backend();
  Ctx ctx{&backend, opt.compute, 1};  // with dropout
  DryRun dry;
  Estimate e;
  for (Param& p : model.params.all()) {
    if (p.name.find(".lora_") != std::string::npos) continue;  // in no file
    bool embedding = p.name.ends_with("embed_tokens.weight") && !p.trainable && &p != &model.head();
    e.mapped += embedding ? touched_rows(p, micro, opt.ids) : p.value.nbytes();
  }
  model.params.prepare_training(opt.compute, {.moments_8bit = opt.moments_8bit});
  for (Param* p : model.params.trainable()) {
    e.values += p->value.nbytes();
    e.grads += p->grad.nbytes() * (opt.micro_batches > 1 ? 2 : 1);  // engine/grad_sum.h
    if (p->master.data != p->value.data) e.masters += p->master.nbytes();
    int64_t moments = p->m.nbytes() + p->v.nbytes() + (p->m_scale ? 2 * p->m_scale.nbytes() : 0);
    e.moments += moments;
    e.trainable_parameters += p->value.numel();
    e.optimizer_bytes += p->grad.nbytes() + 2 * moments + 2 * p->master.nbytes() +
                         (p->master.data != p->value.data ? p->value.nbytes() : 0);
  }
  model.recompute = opt.recompute;
  int64_t before = memory_stats().live, peak = 0;
  counted = {};
  for (const Batch& b : micro) {
    reset_memory_peak();
    Tape tape(ctx, true);
    LayerTap tap;
    std::vector<Var> aux;
    Var x = model.hidden(tape, b, tap, opt.balance_loss ? &aux : nullptr);
    int64_t now = memory_stats().live - before;
    std::vector<std::pair<Var, float>> seeds{{lm_loss(x, model.head(), b.targets, 1.0f), 1.0f}};
    for (const Var& v : aux) seeds.emplace_back(v, 1.0f);
    tape.backward(seeds);
    int64_t high = memory_stats().peak - before, trained = 0;
    for (int64_t t = 0; t < b.targets.numel(); ++t) trained += b.targets.i32()[t] >= 0;
    e.tokens += b.ids.numel();
    e.trained_tokens += trained;
    if (high <= peak) continue;
    peak = high;
    e.activations = now;
    e.kept_by_layer.clear();
    for (size_t i = 1; i < tap.live.size(); ++i)
      e.kept_by_layer.push_back(tap.live[i] - tap.live[i - 1]);
    int64_t V = model.head().value.dim(0);
    e.logits_chunk = std::min(trained, loss_chunk_rows(V)) * V * 4;
  }
  e.step = peak - e.activations;
  e.product_flops = counted.product;
  e.attention_flops = counted.attention;
  e.freed = std::min(kKeptBlocks, e.activations + e.step);
  e.threads = num_threads() * ((2 << 20) + counted.sums);
  return e;
}

}  // namespace sutor
