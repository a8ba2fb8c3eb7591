#pragma once
// The inner loops of the element-wise kernels, one row of n elements at a time. The loops
// (engine/cpu/isa/rows.h) are compiled once per instruction set; all give the same bits: sums run
// in 16 lanes that are added in a fixed order, and nothing is fused.

#include <cstdint>

namespace sutor::cpu {

struct AdamWConstants {
  float grad_scale, decay, beta1_rest, beta2, beta2_rest, step, root_bias2,
      eps;  // *_rest = 1 - beta; step = lr / bias1
};

struct DropoutConstants {  // engine/ref/dropout.h
  uint64_t seed;
  uint32_t threshold;  // draws below it are dropped
  float scale;         // 1 / (1 - p)
};

struct RowKernels {
  const char* name;
  void (*add)(float* y, const float* a, const float* b, int64_t n);  // y = a + b
  void (*axpy)(float* y, const float* x, float a, int64_t n);        // y += a x
  void (*scale)(float* x, float a, int64_t n);                       // x *= a
  void (*swiglu)(float* y, const float* g, const float* u, int64_t n);
  void (*swiglu_grad)(float* dg, float* du, const float* dy, const float* g, const float* u,
                      int64_t n);  // +=; null: skip
  void (*sigmoid)(float* y, const float* x, int64_t n);
  float (*max)(const float* x, int64_t n);  // NaN is ignored
  double (*exp_sum)(float* e, const float* x, float shift,
                    int64_t n);  // e = exp(x - shift), its sum; e may be null or x
  double (*dot)(const float* a, const float* b, int64_t n);  // f64 products and sums
  double (*dot3)(const float* a, const float* b, const float* c, int64_t n);
  void (*norm)(float* y, const float* x, const float* w, float r, int64_t n);  // y = x r w
  void (*norm_grad)(float* dx, const float* dy, const float* x, const float* w, float r, float c,
                    int64_t n);  // += r w dy - c x
  void (*mac64)(double* acc, const float* a, const float* b, float r, int64_t n);  // acc += a b r
  void (*rope)(float* y, const float* x, const float* c, const float* s, int64_t half,
               bool interleaved);
  void (*rope_grad)(float* dx, const float* dy, const float* c, const float* s, int64_t half,
                    bool interleaved);  // +=
  void (*adamw)(float* w, float* m, float* v, const float* g, const AdamWConstants& k, int64_t n);
  // y = (add ? y : 0) + x where the element stays; x[0] is element `first`.
  void (*dropout)(float* y, const float* x, const DropoutConstants& k, int64_t first, int64_t n,
                  bool add);
  void (*gelu)(float* y, const float* x, int64_t n);
  // a = gelu(x): dx = weight z gelu'(x), z = weight a (overwritten); returns <z, a>
  float (*gelu_grad)(float* dx, float* z, const float* x, float weight, int64_t n);
  void (*narrow)(uint16_t* y, const float* x, int64_t n);  // to the bits of bf16, nearest even
  void (*widen)(float* y, const uint16_t* x, int64_t n);   // back
};

extern const RowKernels kRowsPortable, kRowsAvx2, kRowsAvx512;

}  // namespace sutor::cpu
