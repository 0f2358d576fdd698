// Rules that step by a sign: Rprop and Lion, over any number of arrays in one parallel region.
//
//   g = maximize ? -grad : grad
// Rprop:
//   f = g * q > 0 ? etaplus : g * q < 0 ? etaminus : 1
//   d = min(max(d * f, step_min), step_max)
//   g = f is etaminus ? 0 : g
//   p = p - sign(g) * d;   q = g
// Lion:
//   c = m + (1 - beta1) * (g - m)
//   p = p * (1 - lr * weight_decay) - lr * sign(c)
//   m = m + (1 - beta2) * (g - m)
//
// sign is 0 for zeros and for NaN. Rprop is bit-equal to torch's loop in float32 and float64 on
// AVX2 and AVX-512; Lion's sums are one fma each. Half types compute in float32 and round the
// parameter and each state once.
//
// Bytes per float32 element: Rprop 28, Lion 20; in place, so ordinary stores.
// Reference: torch.optim.Rprop; Riedmiller and Braun 1993; Chen et al. 2023 (arXiv 2302.06675).
#include "kernels/optimizer_loop.h"

namespace dlk::DLK_ISA {
namespace {

// One number where x is above zero, another where it is below, a third elsewhere.
template <class C>
DLK_INLINE Vec<C> by_sign(Vec<C> x, Vec<C> above, Vec<C> below, Vec<C> elsewhere) {
  return select(x > Vec<C>(0), above, select(x < Vec<C>(0), below, elsewhere));
}

// Numbers: etaminus, etaplus, smallest step, largest step, maximize. States: prev, step_size.
template <class C> struct Rprop {
  const Vec<C> eta_minus, eta_plus, step_min, step_max;
  const GradientTerm<C> gradient;

  explicit Rprop(const double* n)
      : eta_minus(C(n[0])), eta_plus(C(n[1])), step_min(C(n[2])), step_max(C(n[3])),
        gradient(0, n[4]) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    const Vec<C> agreement = g * s[0], zero(0), one(1);
    s[1] = min(step_max, max(step_min, s[1] * by_sign(agreement, eta_plus, eta_minus, one)));
    g = select(agreement < zero, zero, g);
    p = p - by_sign(g, one, -one, zero) * s[1];
    s[0] = g;
  }
};

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

void rprop(OptimizerArgs& args) noexcept {
  run_optimizer<Rprop, 0b11>(args);
}

void lion(OptimizerArgs& args) noexcept {
  run_optimizer<Lion, 0b1>(args);
}

} // namespace dlk::DLK_ISA
