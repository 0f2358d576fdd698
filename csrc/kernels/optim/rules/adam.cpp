// Adam and AdamW, with AMSGrad, over any number of arrays in one parallel region.
//
//   g = maximize ? -grad : grad
//   p = p * (1 - lr * weight_decay)  (AdamW)   or   g = g + weight_decay * p  (Adam)
//   m = m + (1 - beta1) * (g - m)
//   v = beta2 * v + ((1 - beta2) * g) * g
//   d = sqrt(amsgrad ? (w = max(w, v)) : v) / sqrt(1 - beta2^t) + eps
//   p = p + (-lr / (1 - beta1^t) * m) / d
//
// In this order, each line's product and sum one fma where torch's loop has one (lerp_, addcmul_,
// add_(alpha=)): m and v are bit-equal to it on AVX2 and AVX-512. Square root and divisions are
// correctly rounded; torch's vectorized sqrt is not, so p may be a unit in the last place apart
// from its loop. Half types compute in float32 and round each of p, m, v, w once.
//
// Bytes per float32 element: 28, with amsgrad 36; in place, so ordinary stores. Two divisions and a
// square root cost half of what the memory does. The division by sqrt(1 - beta2^t) through its
// inverse and the exact remainder has the same bits, and was a tenth faster in cache, the same in
// memory and a tenth slower between codes.
// Reference: torch.optim.Adam, AdamW; Kingma and Ba 2015, Loshchilov and Hutter 2019, Reddi et al.
// 2018.
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: -step size, 1 - beta1, beta2, 1 - beta2, sqrt(bias correction 2), eps, coupled weight
// decay, factor of p (1 for none), maximize. States: exp_avg, exp_avg_sq[, max_exp_avg_sq].
template <class C> struct Adam {
  static constexpr int kSignedSlots = 0b001;
  const Vec<C> negative_step, beta2, one_minus_beta2, correction, eps, shrink;
  const Lerp<C> lerp;
  const GradientTerm<C> gradient;
  const bool shrinks;

  explicit Adam(const double* n)
      : negative_step(C(n[0])), beta2(C(n[2])), one_minus_beta2(C(n[3])), correction(C(n[4])),
        eps(C(n[5])), shrink(C(n[7])), lerp(n[1]), gradient(n[6], n[8]), shrinks(n[7] != 1) {}

  template <int kMask> DLK_INLINE void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const {
    g = gradient(g, p);
    if (shrinks)
      p = p * shrink;
    s[0] = lerp(s[0], g);
    s[1] = fma(one_minus_beta2 * g, g, s[1] * beta2);
    Vec<C> second = s[1];
    if constexpr (kMask & 4)
      second = s[2] = maximum(s[2], s[1]);
    const Vec<C> denominator = sqrt(second) / correction + eps;
    p = p + (negative_step * s[0]) / denominator;
  }
};

} // namespace

void adam(OptimizerArgs& args) noexcept {
  run_optimizer<Adam, 0b011, 0b111>(args);
}

} // namespace dlk::DLK_ISA
