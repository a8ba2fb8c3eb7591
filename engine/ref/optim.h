#pragma once
// AdamW with decoupled weight decay (arXiv 1711.05101, in the order of torch.optim.AdamW). bias = 1
// - beta^t: w *= 1 - lr wd; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr/bias1 m /
// (sqrt(v)/sqrt(bias2) + eps). Kernel: engine/cpu/optim.cpp; test: tests/kernels/optim.cpp.

#include <cmath>
#include <cstdint>

namespace sutor::ref {

template <class T>
struct AdamW {
  T lr, beta1, beta2, eps, weight_decay, grad_scale, bias1, bias2;
};

template <class T>
void adamw_step(T* w, T* m, T* v, const T* grad, int64_t n, const AdamW<T>& s) {
  for (int64_t i = 0; i < n; ++i) {
    T g = grad[i] * s.grad_scale;
    w[i] *= T(1) - s.lr * s.weight_decay;
    m[i] = s.beta1 * m[i] + (T(1) - s.beta1) * g;
    v[i] = s.beta2 * v[i] + (T(1) - s.beta2) * g * g;
    w[i] -= s.lr / s.bias1 * m[i] / (std::sqrt(v[i]) / std::sqrt(s.bias2) + s.eps);
  }
}

}  // namespace sutor::ref
