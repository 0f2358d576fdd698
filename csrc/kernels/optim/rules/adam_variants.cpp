// Relatives of Adam: Adamax, NAdam, RAdam, over any number of arrays in one parallel region.
//
//   g = maximize ? -grad : grad
//   p = p * (1 - lr * weight_decay)  (decoupled)   or   g = g + weight_decay * p
//   m = m + (1 - beta1) * (g - m)
// Adamax:
//   u = max(beta2 * u, |g| + eps), NaN where either is
//   p = p + (-lr / (1 - beta1^t) * m) / u
// NAdam and RAdam:
//   v = beta2 * v + ((1 - beta2) * g) * g
// NAdam, with mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2):
//   d = sqrt(v / (1 - beta2^t)) + eps
//   p = p + (-lr (1 - mu_t) / (1 - prod mu) * g) / d
//   p = p + (-lr mu_(t+1) / (1 - prod mu mu_(t+1)) * m) / d
// RAdam, with the rectification r where rho_t > 5, else the last line without its two factors:
//   p = p - m / (1 - beta1^t) * lr * (sqrt(1 - beta2^t) * 1 / (sqrt(v) + eps)) * r
//
// In torch's order, each line's product and sum one fma where torch's loop has one: m, u and v are
// bit-equal to it on AVX2 and AVX-512, p up to torch's square root, which is not correctly rounded.
// Half types compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 28; in place, so ordinary stores.
// Reference: torch.optim.Adamax, NAdam, RAdam; Kingma and Ba 2015, Dozat 2016, Liu et al. 2020.
#include "kernels/optimizer_loop.h"

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

void adamax(OptimizerArgs& args) noexcept {
  run_optimizer<Adamax, 0b11>(args);
}

void nadam(OptimizerArgs& args) noexcept {
  run_optimizer<NAdam, 0b11>(args);
}

void radam(OptimizerArgs& args) noexcept {
  run_optimizer<RAdam, 0b11>(args);
}

} // namespace dlk::DLK_ISA
