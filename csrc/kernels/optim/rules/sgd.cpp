// Stochastic gradient descent with momentum, over any number of arrays in one parallel region.
//
//   g = (maximize ? -grad : grad) + weight_decay * p
//   b = first step ? g : momentum * b + (1 - dampening) * g
//   p = p - lr * (nesterov ? g + momentum * b : b)          (b = g without momentum)
//
// Every "+ a * x" is one fma, which is what torch's loop over add_(alpha=) does: float32 and
// float64 results are bit-equal to it on AVX2 and AVX-512. Half types compute in float32 and round
// p and b once each. Note the learning rate stays outside b, as in torch, not inside as in
// Sutskever et al. 2013.
//
// Bytes per float32 element: 12, with momentum 20; in place, so ordinary stores. A table of
// (array, chunk) pieces of 16384 elements is shared out, so 5000 small arrays cost one region.
// Reference: torch.optim.SGD.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: -lr, momentum, 1 - dampening, weight_decay, nesterov, maximize, first step.
// States: [momentum_buffer].
template <class C> struct Sgd {
  static constexpr int kSignedSlots = 0b1;
  const Vec<C> negative_lr, momentum, keep;
  const GradientTerm<C> gradient;
  const bool nesterov, first_step;

  explicit Sgd(const double* n)
      : negative_lr(C(n[0])), momentum(C(n[1])), keep(C(n[2])), gradient(n[3], n[5]),
        nesterov(n[4] != 0), first_step(n[6] != 0) {}

  template <int kMask> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    if constexpr (kMask) {
      s[0] = first_step ? g : fma(g, keep, s[0] * momentum);
      g = nesterov ? fma(s[0], momentum, g) : s[0];
    }
    p = fma(g, negative_lr, p);
  }
  DLK_INLINE bool overwrites() const { return first_step; }
};

} // namespace

void sgd(OptimizerArgs& args) noexcept {
  run_optimizer<Sgd, 0, 1>(args);
}

} // namespace dlk::DLK_ISA
