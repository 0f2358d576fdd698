// Adagrad, over any number of arrays in one parallel region.
//
//   g = (maximize ? -grad : grad) + weight_decay * p
//   a = a + g * g
//   p = p + (-lr / (1 + (t - 1) * lr_decay) * g) / (sqrt(a) + eps)
//
// In torch's order; a is bit-equal to its loop on AVX2 and AVX-512, p up to torch's square root,
// which is not correctly rounded. Half types compute in float32 and round p and a once each.
//
// Bytes per float32 element: 20; in place, so ordinary stores.
// Reference: torch.optim.Adagrad; Duchi et al. 2011.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: -rate, eps, weight_decay, maximize. States: sum.
template <class C> struct Adagrad {
  static constexpr int kSignedSlots = 0;
  const Vec<C> negative_rate, eps;
  const GradientTerm<C> gradient;

  explicit Adagrad(const double* n) : negative_rate(C(n[0])), eps(C(n[1])), gradient(n[2], n[3]) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    s[0] = fma(g, g, s[0]);
    p = p + (negative_rate * g) / (sqrt(s[0]) + eps);
  }
};

} // namespace

void adagrad(OptimizerArgs& args) noexcept {
  run_optimizer<Adagrad, 0b1>(args);
}

} // namespace dlk::DLK_ISA
