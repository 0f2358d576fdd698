// Adadelta, over any number of arrays in one parallel region.
//
//   g = (maximize ? -grad : grad) + weight_decay * p
//   v = rho * v + ((1 - rho) * g) * g
//   u = sqrt(w + eps) / sqrt(v + eps) * g
//   w = rho * w + ((1 - rho) * u) * u
//   p = p - lr * u
//
// In torch's order, each line's product and sum one fma where torch's loop has one: v is bit-equal
// to it on AVX2 and AVX-512, the rest up to torch's square root, which is not correctly rounded.
// Half types compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 28.
// Reference: torch.optim.Adadelta; Zeiler 2012.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: -lr, rho, 1 - rho, eps, weight_decay, maximize. States: square_avg, acc_delta.
template <class C> struct Adadelta {
  const Vec<C> negative_lr, rho, one_minus_rho, eps;
  const GradientTerm<C> gradient;

  explicit Adadelta(const double* n)
      : negative_lr(C(n[0])), rho(C(n[1])), one_minus_rho(C(n[2])), eps(C(n[3])),
        gradient(n[4], n[5]) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    s[0] = fma(one_minus_rho * g, g, s[0] * rho);
    const Vec<C> delta = sqrt(s[1] + eps) / sqrt(s[0] + eps) * g;
    s[1] = fma(one_minus_rho * delta, delta, s[1] * rho);
    p = fma(delta, negative_lr, p);
  }
};

} // namespace

void adadelta(OptimizerArgs& args) noexcept {
  run_optimizer<Adadelta, 0b11>(args);
}

} // namespace dlk::DLK_ISA
