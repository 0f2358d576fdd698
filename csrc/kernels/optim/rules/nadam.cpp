// NAdam, over any number of arrays in one parallel region.
//
//   g = maximize ? -grad : grad
//   p = p * (1 - lr * weight_decay)  (decoupled)   or   g = g + weight_decay * p
//   m = m + (1 - beta1) * (g - m)
//   v = beta2 * v + ((1 - beta2) * g) * g
//   d = sqrt(v / (1 - beta2^t)) + eps
//   p = p + (-lr (1 - mu_t) / (1 - prod mu) * g) / d
//   p = p + (-lr mu_(t+1) / (1 - prod mu mu_(t+1)) * m) / d
//
// with mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2).
//
// In torch's order, each line's product and sum one fma where torch's loop has one: m and v are
// bit-equal to it on AVX2 and AVX-512, p up to torch's square root, which is not correctly rounded.
// Half types compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 28; in place, so ordinary stores.
// Reference: torch.optim.NAdam; Dozat 2016.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: factor of g, factor of m, 1 - beta1, beta2, 1 - beta2, bias correction 2, eps, coupled
// weight decay, factor of p, maximize. States: exp_avg, exp_avg_sq.
template <class C> struct NAdam {
  const Vec<C> of_gradient, of_average, beta2, one_minus_beta2, correction, eps, shrink;
  const Lerp<C> lerp;
  const GradientTerm<C> gradient;

  explicit NAdam(const double* n)
      : of_gradient(C(n[0])), of_average(C(n[1])), beta2(C(n[3])), one_minus_beta2(C(n[4])),
        correction(C(n[5])), eps(C(n[6])), shrink(C(n[8])), lerp(n[2]), gradient(n[7], n[9]) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    p = p * shrink;
    s[0] = lerp(s[0], g);
    s[1] = fma(one_minus_beta2 * g, g, s[1] * beta2);
    const Vec<C> denominator = sqrt(s[1] / correction) + eps;
    p = p + (of_gradient * g) / denominator;
    p = p + (of_average * s[0]) / denominator;
  }
};

} // namespace

void nadam(OptimizerArgs& args) noexcept {
  run_optimizer<NAdam, 0b11>(args);
}

} // namespace dlk::DLK_ISA
