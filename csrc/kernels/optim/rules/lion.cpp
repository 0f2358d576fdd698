// Lion, which steps by the sign of an average, over any number of arrays in one parallel region.
//
//   g = maximize ? -grad : grad
//   c = m + (1 - beta1) * (g - m)
//   p = p * (1 - lr * weight_decay) - lr * sign(c)
//   m = m + (1 - beta2) * (g - m)
//
// sign is 0 for zeros and for NaN. Sums are one fma each. Half types compute in float32 and round
// the parameter and the state once.
//
// Bytes per float32 element: 20; in place, so ordinary stores.
// Reference: Chen et al. 2023 (arXiv 2302.06675).
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: lr, 1 - beta1, 1 - beta2, factor of p, maximize. States: exp_avg.
template <class C> struct Lion {
  static constexpr int kSignedSlots = 0b1;
  const Vec<C> lr, shrink;
  const Lerp<C> blend, lerp;
  const GradientTerm<C> gradient;

  explicit Lion(const double* n)
      : lr(C(n[0])), shrink(C(n[3])), blend(n[1]), lerp(n[2]), gradient(0, n[4]) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    p = p * shrink - by_sign(blend(s[0], g), lr, -lr, Vec<C>(0));
    s[0] = lerp(s[0], g);
  }
};

} // namespace

void lion(OptimizerArgs& args) noexcept {
  run_optimizer<Lion, 0b1>(args);
}

} // namespace dlk::DLK_ISA
