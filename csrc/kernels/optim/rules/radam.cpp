// RAdam, over any number of arrays in one parallel region.
//
//   g = maximize ? -grad : grad
//   p = p * (1 - lr * weight_decay)  (decoupled)   or   g = g + weight_decay * p
//   m = m + (1 - beta1) * (g - m)
//   v = beta2 * v + ((1 - beta2) * g) * g
//   p = p - m / (1 - beta1^t) * lr * (sqrt(1 - beta2^t) * 1 / (sqrt(v) + eps)) * r
//
// with the rectification r where rho_t > 5, else the last line without its two last factors.
//
// In torch's order, each line's product and sum one fma where torch's loop has one: m and v are
// bit-equal to it on AVX2 and AVX-512, p up to torch's square root, which is not correctly rounded.
// Half types compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 28; in place, so ordinary stores.
// Reference: torch.optim.RAdam; Liu et al. 2020.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: lr, 1 - beta1, beta2, 1 - beta2, bias correction 1, sqrt(bias correction 2), eps,
// rectification (0 for none), coupled weight decay, factor of p, maximize.
// States: exp_avg, exp_avg_sq.
template <class C> struct RAdam {
  const Vec<C> lr, beta2, one_minus_beta2, correction1, correction2, eps, rectification, shrink;
  const Lerp<C> lerp;
  const GradientTerm<C> gradient;
  const bool is_rectified;

  explicit RAdam(const double* n)
      : lr(C(n[0])), beta2(C(n[2])), one_minus_beta2(C(n[3])), correction1(C(n[4])),
        correction2(C(n[5])), eps(C(n[6])), rectification(C(n[7])), shrink(C(n[9])), lerp(n[1]),
        gradient(n[8], n[10]), is_rectified(n[7] != 0) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    p = p * shrink;
    s[0] = lerp(s[0], g);
    s[1] = fma(one_minus_beta2 * g, g, s[1] * beta2);
    Vec<C> step = s[0] / correction1 * lr;
    if (is_rectified)
      step = step * (Vec<C>(1) / (sqrt(s[1]) + eps) * correction2) * rectification;
    p = p - step;
  }
};

} // namespace

void radam(OptimizerArgs& args) noexcept {
  run_optimizer<RAdam, 0b11>(args);
}

} // namespace dlk::DLK_ISA
