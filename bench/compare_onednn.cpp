// Sutor's kernels against oneDNN (Debian's libdnnl-dev), called in turn on the same shapes with the
// same threads: dense products of bf16, and a MoE layer's forward pass against a loop over its
// experts. Built and run by bench/compare_onednn.sh.
//
// oneDNN at its best: weights packed once in the layout it asks for, primitives made once for each
// number of tokens, activations in bf16 before the clock starts (Sutor takes and gives float32, and
// packs its weights anew in every call).

#include <omp.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>

#include "engine/bench_timing.h"
#include "engine/cpu/isa.h"
#include "engine/cpu/peaks.h"
#include "engine/moe.h"
#include "engine/parallel.h"

using namespace sutor;
using namespace sutor::timing;

namespace {

using Type = dnnl::memory::data_type;
using Memory = dnnl::memory;

dnnl::engine device(dnnl::engine::kind::cpu, 0);
dnnl::stream queue(device);

// One [M,K] x [K,N]; B is `packed` in the layout that oneDNN prefers.
struct Product {
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul primitive;
  Product(int64_t m, int64_t k, int64_t n, Type out)
      : desc({Memory::desc({m, k}, Type::bf16, Memory::format_tag::ab),
              Memory::desc({k, n}, Type::bf16, Memory::format_tag::any),
              Memory::desc({m, n}, out, Memory::format_tag::ab)},
             device),
        primitive(desc) {}
  // B from rows of K (`transposed`: rows of N)
  Memory packed(const Tensor& w, bool transposed) const {
    const int64_t rows = w.dim(0), cols = w.cols();
    Memory plain(transposed ? Memory::desc({rows, cols}, Type::bf16, Memory::format_tag::ab)
                            : Memory::desc({cols, rows}, Type::bf16, Memory::format_tag::ba),
                 device, w.data);
    Memory out(desc.weights_desc(), device);
    dnnl::reorder(plain, out).execute(queue, plain, out);
    queue.wait();
    return out;
  }
  void operator()(void* a, const Memory& b, void* c) const {
    primitive.execute(queue, {{DNNL_ARG_SRC, Memory(desc.src_desc(), device, a)},
                              {DNNL_ARG_WEIGHTS, b},
                              {DNNL_ARG_DST, Memory(desc.dst_desc(), device, c)}});
  }
};

Tensor rounded(const Tensor& x) { return cast(x, DType::BF16); }

struct Ratio {
  double ours, theirs;
};

// In turn, each after a pause in which the other's threads come to rest.
Ratio race(int repeats, const std::function<void()>& ours, const std::function<void()>& theirs) {
  auto timed = [](const std::function<void()>& fn) {
    usleep(20000);
    auto begin = std::chrono::steady_clock::now();
    fn();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  std::vector<double> a, b;
  ours();
  theirs();
  for (int i = 0; i < repeats; ++i) {
    a.push_back(timed(ours));
    b.push_back(timed(theirs));
  }
  return {median(a), median(b)};
}

void row(const std::string& what, double flop, Ratio r, double peak) {
  fmt::print("| {} | {:.2f} | {:.0f} | {:.2f} | {:.0f} | {:.2f}x |\n", what, r.ours * 1e3,
             100 * flop / r.ours / peak, r.theirs * 1e3, 100 * flop / r.theirs / peak,
             r.theirs / r.ours);
}

float apart(const float* a, const float* b, int64_t n) {
  float worst = 0, most = 0;
  for (int64_t i = 0; i < n; ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]));
    most = std::max(most, std::abs(b[i]));
  }
  return worst / most;
}

void dense(Ctx& ctx, int repeats, double peak) {
  const int64_t T = 1024, K = 2048, N = 2816;
  Tensor x = made({T, K}, DType::F32, 1), w = made({N, K}, DType::BF16, 2), y = empty({T, N}),
         dy = made({T, N}, DType::F32, 3), dx = zeros({T, K}), dw = zeros({N, K}), xb = rounded(x),
         dyb = rounded(dy), out = empty({T, N}), dx_out = empty({T, K}), dw_out = empty({N, K});
  const double flop = 2.0 * T * K * N;
  Product forward(T, K, N, Type::f32), back(T, N, K, Type::f32);
  Memory wf = forward.packed(w, false), wb = back.packed(w, true);
  Ratio r = race(
      repeats, [&] { ctx.k->linear_fwd(ctx, y, x, w, {}); },
      [&] {
        forward(xb.data, wf, out.data);
        queue.wait();
      });
  check(apart(y.f32(), out.f32(), y.numel()) < 1e-2f, "forward: the two differ");
  row(fmt::format("dense forward, {} x {} x {}", T, K, N), flop, r, peak);
  auto their_dx = [&] {
    back(dyb.data, wb, dx_out.data);
    queue.wait();
  };
  ctx.k->linear_bwd(ctx, dx, {}, {}, dy, x, w);
  their_dx();
  check(apart(dx.f32(), dx_out.f32(), dx.numel()) < 1e-2f, "dX: the two differ");
  r = race(
      repeats, [&] { ctx.k->linear_bwd(ctx, dx, {}, {}, dy, x, w); }, their_dx);
  row("dense dX", flop, r, peak);
  // dW = dy^T x: both change from call to call, so nothing can be packed before.
  dnnl::matmul::primitive_desc desc({Memory::desc({N, T}, Type::bf16, Memory::format_tag::ba),
                                     Memory::desc({T, K}, Type::bf16, Memory::format_tag::ab),
                                     Memory::desc({N, K}, Type::f32, Memory::format_tag::ab)},
                                    device);
  dnnl::matmul gradient(desc);
  auto their_dw = [&] {
    gradient.execute(queue, {{DNNL_ARG_SRC, Memory(desc.src_desc(), device, dyb.data)},
                             {DNNL_ARG_WEIGHTS, Memory(desc.weights_desc(), device, xb.data)},
                             {DNNL_ARG_DST, Memory(desc.dst_desc(), device, dw_out.data)}});
    queue.wait();
  };
  ctx.k->linear_bwd(ctx, {}, dw, {}, dy, x, w);
  their_dw();
  check(apart(dw.f32(), dw_out.f32(), dw.numel()) < 1e-2f, "dW: the two differ");
  r = race(
      repeats, [&] { ctx.k->linear_bwd(ctx, {}, dw, {}, dy, x, w); }, their_dw);
  row("dense dW", flop, r, peak);
}

void layer(Ctx& ctx, int repeats, double peak) {
  const int64_t H = 2048, I = 1408, E = 64, K = 6;
  ExpertWeights w = made_experts(E, H, I);
  std::vector<Memory> gate, up, down;
  {
    Product in(32, H, I, Type::bf16), out(32, I, H, Type::bf16);
    for (int64_t e = 0; e < E; ++e) {
      gate.push_back(in.packed(w.gate[e], false));
      up.push_back(in.packed(w.up[e], false));
      down.push_back(out.packed(w.down[e], false));
    }
  }
  for (int64_t T : {128, 512, 2048}) {
    MoeIndex index = sort_by_expert(spread_experts(T, E, K), static_cast<int>(E));
    Tensor x = made({T, H}, DType::F32, 1), weight = made({T, K}, DType::F32, 4), y = empty({T, H}),
           xb = rounded(x), theirs = empty({T, H});
    std::map<int64_t, std::pair<Product, Product>> made_for;  // by tokens
    int64_t most = 0;
    for (int64_t e = 0; e < E; ++e) {
      const int64_t n = index.offset[e + 1] - index.offset[e];
      most = std::max(most, n);
      if (n > 0) {
        made_for.try_emplace(n, Product(n, H, I, Type::bf16), Product(n, I, H, Type::bf16));
        const Product& p = made_for.at(n).first;
        check(p.desc.weights_desc() == gate[e].get_desc(), "oneDNN packs {} tokens otherwise", n);
      }
    }
    Tensor rows = empty({most, H}, DType::BF16), g = empty({most, I}, DType::BF16),
           u = empty({most, I}, DType::BF16), out = empty({most, H}, DType::BF16);
    auto loop = [&] {
      std::memset(theirs.data, 0, static_cast<size_t>(theirs.nbytes()));
      for (int64_t e = 0; e < E; ++e) {
        const int64_t first = index.offset[e], n = index.offset[e + 1] - first;
        if (n == 0) continue;
        const auto& [in, back] = made_for.at(n);
#pragma omp parallel for
        for (int64_t i = 0; i < n; ++i)
          std::memcpy(rows.as<bf16>() + i * H, xb.as<bf16>() + index.pair[first + i] / K * H,
                      static_cast<size_t>(H) * 2);
        in(rows.data, gate[e], g.data);
        in(rows.data, up[e], u.data);
        queue.wait();
        bf16 *gs = g.as<bf16>(), *us = u.as<bf16>();
#pragma omp parallel for simd
        for (int64_t i = 0; i < n * I; ++i) {
          const float a = float(gs[i]);
          gs[i] = bf16(a / (1 + std::exp(-a)) * float(us[i]));
        }
        back(g.data, down[e], out.data);
        queue.wait();
#pragma omp parallel for
        for (int64_t i = 0; i < n; ++i) {
          const int64_t pair = index.pair[first + i];
          const float s = weight.f32()[pair];
          const bf16* from = out.as<bf16>() + i * H;
          float* to = theirs.f32() + pair / K * H;
          for (int64_t h = 0; h < H; ++h) to[h] += s * float(from[h]);
        }
      }
    };
    Ratio r = race(
        repeats, [&] { ctx.k->moe_ffn_fwd(ctx, y, {}, {}, x, weight, index, w); }, loop);
    check(apart(y.f32(), theirs.f32(), y.numel()) < 3e-2f, "the layers differ by {}",
          apart(y.f32(), theirs.f32(), y.numel()));
    row(fmt::format("MoE layer forward, {} tokens ({} an expert)", T, T * K / E),
        6.0 * static_cast<double>(T * K * H * I), r, peak);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2,
            repeats = argc > 2 ? std::atoi(argv[2]) : 11;
  set_num_threads(threads);
  omp_set_num_threads(threads);
  Ctx ctx{&cpu_backend(), Compute::kBF16};
  const double peak = cpu::measure_gflops(Compute::kBF16);
  const dnnl_version_t* v = dnnl_version();
  fmt::print(
      "oneDNN {}.{}.{}, kernels {}, {} threads; {:.0f} GFLOP/s from the first-level cache\n\n"
      "| work | Sutor, ms | % of peak | oneDNN, ms | % of peak | oneDNN / Sutor |\n"
      "|---|---:|---:|---:|---:|---:|\n",
      v->major, v->minor, v->patch, cpu::name_of(cpu::current_isa()), threads, peak);
  dense(ctx, repeats, peak * 1e9);
  layer(ctx, repeats, peak * 1e9);
}
