// Averaged stochastic gradient descent, over any number of arrays in one parallel region.
//
//   g = (maximize ? -grad : grad) + weight_decay * p
//   p = p * (1 - lambd * eta) - eta * g
//   a = mu == 1 ? p : a + (p - a) * mu
//   then eta = lr / (1 + lambd * lr * t)^alpha and mu = 1 / max(1, t - t0), for the next step
//
// Bit-equal to torch's loop in float32 and float64 on AVX2 and AVX-512. Half types compute in
// float32 and round p and a once each.
//
// Bytes per float32 element: 16 while mu is 1, where a is only written, past the cache if it is
// large; then 20.
// Reference: torch.optim.ASGD; Polyak and Juditsky 1992.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: -eta, 1 - lambd * eta, mu, weight_decay, maximize. States: ax.
template <class C> struct Asgd {
  const Vec<C> negative_eta, shrink, mu;
  const GradientTerm<C> gradient;
  const bool copies;

  explicit Asgd(const double* n)
      : negative_eta(C(n[0])), shrink(C(n[1])), mu(C(n[2])), gradient(n[3], n[4]),
        copies(n[2] == 1) {}

  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    p = fma(g, negative_eta, p * shrink);
    s[0] = copies ? p : s[0] + (p - s[0]) * mu;
  }
  DLK_INLINE bool overwrites() const { return copies; }
};

} // namespace

void asgd(OptimizerArgs& args) noexcept {
  run_optimizer<Asgd, 0b1>(args);
}

} // namespace dlk::DLK_ISA
