// Losses of a logit, and a target that is the probability of its class.
#pragma once

#include "kernels/elementwise_losses/operands.h"

namespace dlk::DLK_ISA {

// What losses of a logit share: e^-|x|, the softplus of both signs as max(+-x, 0) + tail, and the
// sigmoid of both signs, each with its own digits.
template <class T> struct Logit {
  Vec<T> x, e;
  DLK_INLINE explicit Logit(Vec<T> logit) : x(logit), e(exp_nonpositive(-abs(logit))) {}
  DLK_INLINE Vec<T> tail() const { return log1p_unit(e); }
  // u softplus(x) + v softplus(-x); where u or v is 0 an infinite x adds nothing.
  DLK_INLINE Vec<T> cross_entropy(Vec<T> u, Vec<T> v) const {
    const Vec<T> ends =
        product_or_zero(u, max(Vec<T>(0), x)) + product_or_zero(v, max(Vec<T>(0), -x));
    return fma(u + v, tail(), ends);
  }
  struct Sigmoids {
    Vec<T> of_x, of_minus_x;
  };
  DLK_INLINE Sigmoids sigmoids() const {
    const Vec<T> large = Vec<T>(1) / (Vec<T>(1) + e), small = e * large;
    const IntVec<T> is_negative = x < Vec<T>(0);
    return {select(is_negative, small, large), select(is_negative, large, small)};
  }
};

// w ((1 - t) softplus(x) + p t softplus(-x)). An infinite logit gives the limit, where torch mostly
// gives NaN. torch: binary_cross_entropy_with_logits. Error: 4 eps.
template <class T> struct BinaryCrossEntropyWithLogits : NoParameters<T> {
  static constexpr int kOperands = 4;
  using NoParameters<T>::NoParameters;
  struct At {
    Logit<T> logit;
    Vec<T> u, v, w, p;
    DLK_INLINE Vec<T> value() const { return w * logit.cross_entropy(u, v); }
    DLK_INLINE Vec<T> d_input() const {
      const auto sigmoid = logit.sigmoids();
      return w * (u * sigmoid.of_x - v * sigmoid.of_minus_x);
    }
    DLK_INLINE Vec<T> d_target() const { return w * logit.cross_entropy(Vec<T>(-1), p); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const {
    return {Logit<T>(o.x), Vec<T>(1) - o.t, o.p * o.t, o.w, o.p};
  }
};

// alpha_t (1 - p_t)^gamma times the cross-entropy of a logit, where p_t is the probability of the
// target and alpha_t = alpha t + (1 - alpha)(1 - t), or 1 for a negative alpha. Lin et al., 2017;
// torchvision.ops.sigmoid_focal_loss. Error: 8 eps, and gamma |ln(1 - p_t)| more unless gamma is 2
// or 0.
template <class T> struct SigmoidFocalLoss {
  static constexpr int kOperands = 2;
  static constexpr bool kChecks = false;
  T alpha, gamma;
  explicit SigmoidFocalLoss(const double* parameters)
      : alpha(T(parameters[0])), gamma(T(parameters[1])) {}
  struct At {
    Vec<T> t, balance, balance_slope, entropy, entropy_slope, miss, miss_slope, miss_t, x;
    T gamma;
    // miss^gamma
    DLK_INLINE Vec<T> focus() const {
      if (gamma == 2)
        return miss * miss;
      if (gamma == 0)
        return Vec<T>(1);
      return exp(Vec<T>(gamma) * log(miss));
    }
    // the derivative of the focus by miss, times something that is 0 where miss is 0
    DLK_INLINE Vec<T> focus_slope(Vec<T> focus, Vec<T> times) const {
      const Vec<T> quotient = gamma == 2 ? miss : focus / miss;
      return select(miss == Vec<T>(0), Vec<T>(0), Vec<T>(gamma) * quotient * times);
    }
    DLK_INLINE Vec<T> value() const { return balance * product_or_zero(focus(), entropy); }
    DLK_INLINE Vec<T> d_input() const {
      const Vec<T> f = focus();
      return balance * (entropy_slope * f + focus_slope(f, product_or_zero(miss_slope, entropy)));
    }
    DLK_INLINE Vec<T> d_target() const {
      const Vec<T> f = focus();
      return balance_slope * (entropy * f) + balance * (focus_slope(f, entropy * miss_t) - x * f);
    }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const {
    const Logit<T> logit(o.x);
    const auto sigmoid = logit.sigmoids();
    const Vec<T> one(1), u = one - o.t;
    const bool balanced = alpha >= 0;
    const Vec<T> a(alpha);
    const Vec<T> slope = balanced ? a - (one - a) : Vec<T>(0);
    const Vec<T> balance = balanced ? a * o.t + (one - a) * u : one;
    return {o.t,
            balance,
            slope,
            logit.cross_entropy(u, o.t),
            u * sigmoid.of_x - o.t * sigmoid.of_minus_x,
            u * sigmoid.of_x + o.t * sigmoid.of_minus_x,
            sigmoid.of_x * sigmoid.of_minus_x * (u - o.t),
            sigmoid.of_minus_x - sigmoid.of_x,
            o.x,
            gamma};
  }
};

} // namespace dlk::DLK_ISA
