// Packed weights in the matrix kernels: bit for bit what the same kernels make of the unpacked
// weight, with every instruction set; NF4 for widths at which blocks cross rows and rows end inside
// a byte, GGUF's types where a panel of columns begins and ends inside a block.

#include <cstring>

#include "engine/cpu/gemm.h"
#include "engine/quant.h"
#include "tests/kernels/parity.h"

namespace sutor {
using namespace parity;

namespace {

Tensor packed(Random& rnd, int64_t rows, int64_t cols, DType as) {
  Tensor w = rnd.tensor(rows, cols, as);
  return nf4_tensor(pack_nf4(w), w.shape, as);
}

bool same(const Tensor& a, const Tensor& b) { return doubles(a) == doubles(b); }

// Up to the rounding of the weights to bf16, which dot products leave out.
bool close(const Tensor& a, const Tensor& b) {
  return distance(doubles(a), doubles(b), Compute::kF32) < 4e-3;
}

}  // namespace

TEST_CASE("nf4: linear reads packed weights as unpacked ones") {
  for (auto p : problems::kLinear)
    for (DType as : {DType::BF16, DType::F32, DType::F16}) {
      if (p.tokens * p.n * p.k > 1000000 && as != DType::BF16) continue;
      CAPTURE(p.tokens);
      CAPTURE(p.n);
      CAPTURE(p.k);
      CAPTURE(name_of(as));
      Random rnd(3);
      Tensor q = packed(rnd, p.n, p.k, as), w = unpacked(q), x = rnd.tensor(p.tokens, p.k),
             dy = rnd.tensor(p.tokens, p.n);
      for_each_isa([&](Ctx& ctx, Compute) {
        Tensor y = empty({p.tokens, p.n}), want = empty(y.shape);
        cpu::linear_fwd(ctx, y, x, q, {});
        cpu::linear_fwd(ctx, want, x, w, {});
        const bool rounds = p.tokens > cpu::kDecodeTokens || p.k % 64 != 0 || as == DType::F16;
        CHECK((rounds ? same(y, want) : close(y, want)));
        Tensor dx = zeros({p.tokens, p.k}), dx_want = zeros(dx.shape);
        cpu::linear_bwd(ctx, dx, {}, {}, dy, {}, q);
        cpu::linear_bwd(ctx, dx_want, {}, {}, dy, {}, w);
        CHECK(same(dx, dx_want));
      });
    }
}

TEST_CASE("nf4: experts read packed weights as unpacked ones") {
  for (auto p : problems::kMoe) {
    CAPTURE(p.tokens);
    CAPTURE(p.hidden);
    CAPTURE(p.inter);
    Random rnd(5);
    ExpertWeights q, w;
    for (int64_t e = 0; e < p.experts; ++e) {
      q.gate.push_back(packed(rnd, p.inter, p.hidden, DType::BF16));
      q.up.push_back(packed(rnd, p.inter, p.hidden, DType::BF16));
      q.down.push_back(packed(rnd, p.hidden, p.inter, DType::BF16));
      w.gate.push_back(unpacked(q.gate.back()));
      w.up.push_back(unpacked(q.up.back()));
      w.down.push_back(unpacked(q.down.back()));
    }
    Tensor expert = empty({p.tokens, p.top_k}, DType::I32);
    for (int64_t i = 0; i < expert.numel(); ++i)
      expert.i32()[i] = p.routing == problems::Routing::kOneExpert
                            ? 0
                            : static_cast<int32_t>((i * 7 + i / 3) % p.experts);
    MoeIndex index = sort_by_expert(expert, static_cast<int>(p.experts));
    Tensor x = rnd.tensor(p.tokens, p.hidden), weight = rnd.tensor(p.tokens, p.top_k),
           dy = rnd.tensor(p.tokens, p.hidden);
    for_each_isa([&](Ctx& ctx, Compute) {
      auto run = [&](const ExpertWeights& weights) {
        Tensor y = empty(x.shape), gate = empty({p.tokens * p.top_k, p.inter}),
               up = empty(gate.shape), dx = zeros(x.shape), dweight = zeros(weight.shape);
        cpu::moe_ffn_fwd(ctx, y, gate, up, x, weight, index, weights);
        cpu::moe_ffn_bwd(ctx, dx, dweight, nullptr, dy, x, weight, gate, up, index, weights);
        return std::vector<Tensor>{y, gate, up, dx, dweight};
      };
      std::vector<Tensor> got = run(q), want = run(w);
      const bool rounds = p.hidden % 64 != 0 && p.inter % 64 != 0;
      for (size_t i = 0; i < got.size(); ++i)
        CHECK((rounds ? same(got[i], want[i]) : close(got[i], want[i])));
    });
  }
}

// Rows of blocks of random bytes, their scales small numbers.
Tensor in_blocks(Random& rnd, const char* name, int64_t rows, int64_t cols, DType as) {
  const BlockFormat& f = *block_format(name);
  Tensor bytes = empty({rows * cols / f.elements, f.bytes}, DType::U8);
  std::vector<int> halves{0, 2};
  if (f.type == BlockType::Q6_K) halves = {208};
  if (f.type == BlockType::Q4_0 || f.type == BlockType::Q5_0 || f.type == BlockType::Q8_0)
    halves = {0};
  for (int64_t i = 0; i < bytes.numel(); ++i)
    bytes.as<uint8_t>()[i] = static_cast<uint8_t>(rnd.engine());
  for (int64_t b = 0; b < bytes.rows(); ++b)
    for (int h : halves) {
      auto half = std::bit_cast<uint16_t>(static_cast<_Float16>(1e-3 + 1e-5 * (rnd.engine() % 97)));
      std::memcpy(bytes.data + b * f.bytes + h, &half, 2);
    }
  return blocks_tensor(bytes.storage, bytes.data, f, {rows, cols}, as);
}

constexpr const char* kBlocks[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"};

TEST_CASE("blocks: linear and embedding read packed weights as unpacked ones") {
  for (auto p : {problems::Linear{1, 48, 256},
                 {3, 7, 512},
                 {4, 64, 256},
                 {5, 33, 768},
                 {70, 131, 512},
                 {129, 800, 1280}})
    for (const char* format : kBlocks)
      for (DType as : {DType::BF16, DType::F32}) {
        CAPTURE(format);
        CAPTURE(p.tokens);
        CAPTURE(p.n);
        CAPTURE(name_of(as));
        Random rnd(3);
        Tensor q = in_blocks(rnd, format, p.n, p.k, as), w = unpacked(q),
               x = rnd.tensor(p.tokens, p.k), dy = rnd.tensor(p.tokens, p.n);
        CHECK(q.nbytes() ==
              p.n * p.k / block_format(format)->elements * block_format(format)->bytes);
        CHECK(w.dtype == as);
        // Dot products take the weights unrounded, and apply a scale to a block's sum.
        const bool exact = p.tokens <= cpu::kDecodeTokens;
        for_each_isa([&](Ctx& ctx, Compute compute) {
          Tensor y = empty({p.tokens, p.n}), want = empty(y.shape);
          cpu::linear_fwd(ctx, y, x, q, {});
          cpu::linear_fwd(ctx, want, x, w, {});
          if (exact)
            CHECK((close(y, want) && (as == DType::BF16 || compute == Compute::kBF16 ||
                                      distance(doubles(y), doubles(want), compute) < 1e-5)));
          else
            CHECK(same(y, want));
          Tensor dx = zeros({p.tokens, p.k}), dx_want = zeros(dx.shape);
          cpu::linear_bwd(ctx, dx, {}, {}, dy, {}, q);
          cpu::linear_bwd(ctx, dx_want, {}, {}, dy, {}, w);
          CHECK(same(dx, dx_want));
          Tensor ids = empty({p.tokens}, DType::I32), e = empty({p.tokens, p.k}),
                 e_want = empty(e.shape);
          for (int64_t t = 0; t < p.tokens; ++t) ids.i32()[t] = static_cast<int32_t>(t * 5 % p.n);
          cpu::embed_fwd(ctx, e, ids, q);
          cpu::embed_fwd(ctx, e_want, ids, w);
          CHECK(same(e, e_want));
        });
      }
}

}  // namespace sutor
