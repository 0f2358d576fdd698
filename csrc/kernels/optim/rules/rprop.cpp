// Rprop, over any number of arrays in one parallel region.
//
//   g = maximize ? -grad : grad
//   f = g * q > 0 ? etaplus : g * q < 0 ? etaminus : 1
//   d = min(max(d * f, step_min), step_max)
//   g = f is etaminus ? 0 : g
//   p = p - sign(g) * d;   q = g
//
// sign is 0 for zeros and for NaN. Bit-equal to torch's loop in float32 and float64 on AVX2 and
// AVX-512. Half types compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 28; in place, so ordinary stores.
// Reference: torch.optim.Rprop; Riedmiller and Braun 1993.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

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

} // namespace

void rprop(OptimizerArgs& args) noexcept {
  run_optimizer<Rprop, 0b11>(args);
}

} // namespace dlk::DLK_ISA
