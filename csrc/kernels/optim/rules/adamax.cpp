// Adamax, over any number of arrays in one parallel region.
//
//   g = (maximize ? -grad : grad) + weight_decay * p
//   m = m + (1 - beta1) * (g - m)
//   u = max(beta2 * u, |g| + eps), NaN where either is
//   p = p + (-lr / (1 - beta1^t) * m) / u
//
// In torch's order, each line's product and sum one fma where torch's loop has one: m and u are
// bit-equal to it on AVX2 and AVX-512. Half types compute in float32 and round the parameter and
// each state once.
//
// Bytes per float32 element: 28; in place, so ordinary stores.
// Reference: torch.optim.Adamax; Kingma and Ba 2015.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: -rate, 1 - beta1, beta2, eps, weight_decay, maximize. States: exp_avg, exp_inf.
template <class C> struct Adamax {
  const Vec<C> negative_rate, beta2, eps;
  const Lerp<C> lerp;
  const GradientTerm<C> gradient;

  explicit Adamax(const double* n)
      : negative_rate(C(n[0])), beta2(C(n[2])), eps(C(n[3])), lerp(n[1]), gradient(n[4], n[5]) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    s[0] = lerp(s[0], g);
    s[1] = maximum(s[1] * beta2, abs(g) + eps);
    p = p + (negative_rate * s[0]) / s[1];
  }
};

} // namespace

void adamax(OptimizerArgs& args) noexcept {
  run_optimizer<Adamax, 0b11>(args);
}

} // namespace dlk::DLK_ISA
