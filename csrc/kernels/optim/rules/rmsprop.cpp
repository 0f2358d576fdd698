// RMSprop, over any number of arrays in one parallel region.
//
//   g = (maximize ? -grad : grad) + weight_decay * p
//   v = alpha * v + ((1 - alpha) * g) * g
//   a = a + (1 - alpha) * (g - a)                                   centered only
//   d = sqrt(centered ? v - a * a : v) + eps
//   p = p + (-lr * g) / d          or with momentum:   b = momentum * b + g / d;  p = p - lr * b
//
// In torch's order, each line's product and sum one fma where torch's loop has one: v and a are
// bit-equal to it on AVX2 and AVX-512, the rest up to torch's square root, which is not correctly
// rounded. A centered variance that rounding made negative gives NaN, as in torch. Half types
// compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 20, and 8 more each for momentum and centered.
// Reference: torch.optim.RMSprop; Hinton's lecture 6e, Graves 2013.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: -lr, alpha, 1 - alpha, eps, momentum, weight_decay, maximize.
// States: square_avg[, momentum_buffer][, grad_avg].
template <class C> struct RmsProp {
  static constexpr int kSignedSlots = 0b110;
  const Vec<C> negative_lr, alpha, one_minus_alpha, eps, momentum;
  const Lerp<C> lerp;
  const GradientTerm<C> gradient;

  explicit RmsProp(const double* n)
      : negative_lr(C(n[0])), alpha(C(n[1])), one_minus_alpha(C(n[2])), eps(C(n[3])),
        momentum(C(n[4])), lerp(n[2]), gradient(n[5], n[6]) {}

  template <int kMask> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    s[0] = fma(one_minus_alpha * g, g, s[0] * alpha);
    Vec<C> variance = s[0];
    if constexpr (kMask & 4) {
      s[2] = lerp(s[2], g);
      variance = fma(-s[2], s[2], variance);
    }
    const Vec<C> denominator = sqrt(variance) + eps;
    if constexpr (kMask & 2) {
      s[1] = s[1] * momentum + g / denominator;
      p = fma(s[1], negative_lr, p);
    } else {
      p = p + (negative_lr * g) / denominator;
    }
  }
};

} // namespace

void rmsprop(OptimizerArgs& args) noexcept {
  run_optimizer<RmsProp, 0b001, 0b011, 0b101, 0b111>(args);
}

} // namespace dlk::DLK_ISA
