// The elementwise losses: one functor each, and the list that everything else is made from
// (dispatch, the binding, both Python fronts' names).
//
// A functor has, for Vec<T> of float and double (half types come and go as float):
//   kOperands               how many of x (input), t (target), w (third) and p (fourth) it reads
//   Functor(const double*)  from the two parameters
//   at(operands)            the loss at these operands, of which are asked, as far as wanted,
//                           value(), d_input(), d_target() and d_third()
//   check(operands, bad)    only with kChecks: adds to `bad` the lanes where input, target or third
//                           is outside of the loss's domain; zeros must be inside
// An operand that is left out is 1 everywhere. The binding includes this file for the list alone
// (no DLK_ISA there).
#pragma once

namespace dlk {

// How the operands' shapes go together, and what a mean divides by.
enum LossShapes : int {
  kTargetAsInput = 1, // else input and target are broadcast with each other
  kThirdAsInput = 2,
  kFitInput = 4,     // third and fourth are broadcast to the input, which never grows
  kWeightedMean = 8, // with a third operand the mean divides by its sum
  kVariance = 16,    // third: as the input, but for one dimension that is 1 or the last left out
  kNoTarget = 32,
  kChecked = 64, // has a domain
};

// What is outside of a loss's domain, as bits.
enum LossRefusal : int { kBadInput = 1, kBadTarget = 2, kBadThird = 4 };

} // namespace dlk

#ifdef DLK_ISA

#include "simd/math.h"

namespace dlk::DLK_ISA {

template <class T> struct LossOperands {
  Vec<T> x, t, w, p;
};
template <class T> struct BadLanes {
  IntVec<T> input{0}, target{0}, third{0};
};

// Where u is 0, 0 even if v is infinite: the limit.
template <class T> DLK_INLINE Vec<T> product_or_zero(Vec<T> u, Vec<T> v) {
  return select(u == Vec<T>(0), Vec<T>(0), u * v);
}

// What losses of a difference share.
template <class T> struct NoParameters {
  static constexpr bool kChecks = false;
  explicit NoParameters(const double*) {}
};

// w (x - t)^2. torch: mse_loss. Error: 2 eps of the loss.
template <class T> struct MseLoss : NoParameters<T> {
  static constexpr int kOperands = 3;
  using NoParameters<T>::NoParameters;
  struct At {
    Vec<T> d, w;
    DLK_INLINE Vec<T> value() const { return w * (d * d); }
    DLK_INLINE Vec<T> d_input() const { return w * (d + d); }
    DLK_INLINE Vec<T> d_target() const { return -d_input(); }
    DLK_INLINE Vec<T> d_third() const { return d * d; }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x - o.t, o.w}; }
};

// w |x - t|; the derivative of |d| is 0 at 0 and at NaN. torch: l1_loss. Error: 1 eps.
template <class T> struct L1Loss : NoParameters<T> {
  static constexpr int kOperands = 3;
  using NoParameters<T>::NoParameters;
  struct At {
    Vec<T> d, w;
    DLK_INLINE Vec<T> value() const { return w * abs(d); }
    DLK_INLINE Vec<T> d_input() const {
      const Vec<T> zero(0);
      return w * select(d > zero, Vec<T>(1), select(d < zero, Vec<T>(-1), zero));
    }
    DLK_INLINE Vec<T> d_target() const { return -d_input(); }
    DLK_INLINE Vec<T> d_third() const { return abs(d); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x - o.t, o.w}; }
};

// d^2 / (2 beta) where |d| < beta, else |d| - beta / 2. torch: smooth_l1_loss. Error: 2 eps.
template <class T> struct SmoothL1Loss {
  static constexpr int kOperands = 2;
  static constexpr bool kChecks = false;
  T beta; // not 0, where d / beta at 0 would be NaN
  explicit SmoothL1Loss(const double* parameters)
      : beta(T(parameters[0]) > 0 ? T(parameters[0]) : MathConstants<T>::kSmallestNormal) {}
  struct At {
    Vec<T> d, beta;
    DLK_INLINE Vec<T> value() const {
      const Vec<T> size = abs(d), half(T(0.5));
      return select(size >= beta, size - half * beta, half * size / beta * size);
    }
    DLK_INLINE Vec<T> d_input() const {
      return select(abs(d) >= beta, copy_sign(Vec<T>(1), d), d / beta);
    }
    DLK_INLINE Vec<T> d_target() const { return -d_input(); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x - o.t, Vec<T>(beta)}; }
};

// w times d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2). torch: huber_loss. Error:
// 3 eps.
template <class T> struct HuberLoss {
  static constexpr int kOperands = 3;
  static constexpr bool kChecks = false;
  T delta;
  explicit HuberLoss(const double* parameters) : delta(T(parameters[0])) {}
  struct At {
    Vec<T> d, w, delta;
    DLK_INLINE Vec<T> value() const { return w * d_third(); }
    DLK_INLINE Vec<T> d_input() const { return w * max(-delta, min(delta, d)); } // keeps NaN
    DLK_INLINE Vec<T> d_target() const { return -d_input(); }
    DLK_INLINE Vec<T> d_third() const {
      const Vec<T> size = abs(d), bounded = min(delta, size);
      return bounded * (size - Vec<T>(T(0.5)) * bounded);
    }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x - o.t, o.w, Vec<T>(delta)}; }
};

// t ln t - t x, with 0 ln 0 = 0; NaN where t is 0 and x infinite, as torch's. torch: kl_div.
// Error: 3 eps of |t ln t| + |t x|.
template <class T> struct KlDiv : NoParameters<T> {
  static constexpr int kOperands = 2;
  using NoParameters<T>::NoParameters;
  struct At {
    Vec<T> x, t;
    DLK_INLINE Vec<T> value() const { return product_or_zero(t, log(t)) - t * x; }
    DLK_INLINE Vec<T> d_input() const { return -t; }
    DLK_INLINE Vec<T> d_target() const { return log(t) + (Vec<T>(1) - x); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x, o.t}; }
};

// e^t (t - x). torch: kl_div with log_target. Error: 3 eps.
template <class T> struct KlDivLogTarget : NoParameters<T> {
  static constexpr int kOperands = 2;
  using NoParameters<T>::NoParameters;
  struct At {
    Vec<T> gap, weight;
    DLK_INLINE Vec<T> value() const { return weight * gap; }
    DLK_INLINE Vec<T> d_input() const { return -weight; }
    DLK_INLINE Vec<T> d_target() const { return fma(weight, gap, weight); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.t - o.x, exp(o.t)}; }
};

// -w (t ln x + (1 - t) ln(1 - x)), each logarithm at least -100; the derivative's denominator at
// least 1e-12. torch: binary_cross_entropy. Error: 4 eps.
template <class T> struct BinaryCrossEntropy : NoParameters<T> {
  static constexpr int kOperands = 3;
  static constexpr bool kChecks = true;
  using NoParameters<T>::NoParameters;
  struct At {
    Vec<T> x, t, w;
    // ln(1 - x): what the subtraction rounded away is put back.
    DLK_INLINE Vec<T> log_complement() const {
      const Vec<T> one(1), rest = one - x;
      const Vec<T> lost = (one - rest) - x;
      return log(rest) + select(rest == Vec<T>(0), Vec<T>(0), lost / rest);
    }
    DLK_INLINE Vec<T> value() const {
      const Vec<T> lowest(-100), one(1);
      return -w * (t * max(lowest, log(x)) + (one - t) * max(lowest, log_complement()));
    }
    DLK_INLINE Vec<T> d_input() const {
      return w * ((x - t) / max(Vec<T>(T(1e-12)), (Vec<T>(1) - x) * x));
    }
    DLK_INLINE Vec<T> d_target() const { return w * (log_complement() - log(x)); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x, o.t, o.w}; }
  DLK_INLINE static IntVec<T> outside(Vec<T> v) { // NaN too
    return ((v >= Vec<T>(0)) & (v <= Vec<T>(1))) ^ IntVec<T>(-1);
  }
  DLK_INLINE void check(const LossOperands<T>& o, BadLanes<T>& bad) const {
    bad.input = bad.input | outside(o.x);
    bad.target = bad.target | outside(o.t);
  }
};

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

// (ln v + (x - t)^2 / v) / 2 + b with v = max(w, a): the variance is the third operand, and its
// gradient passes where it is raised to a, as torch's. torch: gaussian_nll_loss. Error: 4 eps of
// the terms.
template <class T> struct GaussianNllLoss {
  static constexpr int kOperands = 3;
  static constexpr bool kChecks = true;
  T smallest, constant;
  explicit GaussianNllLoss(const double* parameters)
      : smallest(T(parameters[0])), constant(T(parameters[1])) {}
  struct At {
    Vec<T> d, variance, constant;
    DLK_INLINE Vec<T> value() const {
      return Vec<T>(T(0.5)) * (log(variance) + d * (d / variance)) + constant;
    }
    DLK_INLINE Vec<T> d_input() const { return d / variance; }
    DLK_INLINE Vec<T> d_target() const { return -d_input(); }
    DLK_INLINE Vec<T> d_third() const {
      const Vec<T> ratio = d / variance;
      return Vec<T>(T(0.5)) * (Vec<T>(1) / variance - ratio * ratio);
    }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const {
    return {o.x - o.t, max(Vec<T>(smallest), o.w), Vec<T>(constant)};
  }
  DLK_INLINE void check(const LossOperands<T>& o, BadLanes<T>& bad) const {
    bad.third = bad.third | (o.w < Vec<T>(0));
  }
};

// Stirling's approximation of ln t! where t > 1, else 0, and its derivative.
template <class T> DLK_INLINE Vec<T> stirling(Vec<T> t) {
  const Vec<T> log_t = log(t), half(T(0.5));
  const Vec<T> value = t * log_t - t + half * log_t + Vec<T>(T(0.91893853320467274178));
  return select(t > Vec<T>(1), value, Vec<T>(0));
}
template <class T> DLK_INLINE Vec<T> stirling_slope(Vec<T> t) {
  return select(t > Vec<T>(1), log(t) + Vec<T>(T(0.5)) / t, Vec<T>(0));
}

// e^x - t x, or x - t ln(x + b) where the input is no logarithm; with a = 1 plus Stirling's
// approximation of ln t!. torch: poisson_nll_loss. Error: 4 eps of the terms.
template <class T, bool kLogInput> struct PoissonNll {
  static constexpr int kOperands = 2;
  static constexpr bool kChecks = false;
  bool full;
  T smallest;
  explicit PoissonNll(const double* parameters)
      : full(parameters[0] != 0), smallest(T(parameters[1])) {}
  struct At {
    Vec<T> x, t, shifted; // shifted: x + b
    bool full;
    DLK_INLINE Vec<T> value() const {
      const Vec<T> loss = kLogInput ? exp(x) - t * x : x - t * log(shifted);
      return full ? loss + stirling(t) : loss;
    }
    DLK_INLINE Vec<T> d_input() const { return kLogInput ? exp(x) - t : Vec<T>(1) - t / shifted; }
    DLK_INLINE Vec<T> d_target() const {
      const Vec<T> slope = kLogInput ? -x : -log(shifted);
      return full ? slope + stirling_slope(t) : slope;
    }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const {
    return {o.x, o.t, o.x + Vec<T>(smallest), full};
  }
};
template <class T> using PoissonNllLoss = PoissonNll<T, false>;
template <class T> using PoissonNllLossOfLog = PoissonNll<T, true>;

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

// --- of distributions, summed along an axis; a = 1 / ln(base)

// -a x ln x, with 0 ln 0 = 0. Error: 3 eps.
template <class T> struct Entropy {
  static constexpr int kOperands = 1;
  static constexpr bool kChecks = false;
  T unit;
  explicit Entropy(const double* parameters) : unit(T(parameters[0])) {}
  struct At {
    Vec<T> x, unit;
    DLK_INLINE Vec<T> value() const { return -unit * product_or_zero(x, log(x)); }
    DLK_INLINE Vec<T> d_input() const { return -unit * (log(x) + Vec<T>(1)); }
    DLK_INLINE Vec<T> d_target() const { return Vec<T>(0); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x, Vec<T>(unit)}; }
};

// -a x ln t, with 0 ln 0 = 0. Error: 3 eps.
template <class T> struct CrossEntropyOfDistributions {
  static constexpr int kOperands = 2;
  static constexpr bool kChecks = false;
  T unit;
  explicit CrossEntropyOfDistributions(const double* parameters) : unit(T(parameters[0])) {}
  struct At {
    Vec<T> x, t, unit;
    DLK_INLINE Vec<T> value() const { return -unit * product_or_zero(x, log(t)); }
    DLK_INLINE Vec<T> d_input() const { return -unit * log(t); }
    DLK_INLINE Vec<T> d_target() const { return -unit * product_or_zero(x, Vec<T>(1) / t); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x, o.t, Vec<T>(unit)}; }
};

// a x ln(x / t), with 0 ln 0 = 0. Where x and t are close the logarithm is taken of their quotient,
// so that it keeps its digits; elsewhere it is a difference, whose parts cannot overflow. Error:
// 4 eps of the terms.
template <class T> struct KlDivergence {
  static constexpr int kOperands = 2;
  static constexpr bool kChecks = false;
  T unit;
  explicit KlDivergence(const double* parameters) : unit(T(parameters[0])) {}
  struct At {
    Vec<T> x, t, unit;
    DLK_INLINE Vec<T> log_ratio() const {
      const IntVec<T> close = (x < t + t) & (t < x + x);
      return log(select(close, x / t, x)) - log(select(close, Vec<T>(1), t));
    }
    DLK_INLINE Vec<T> value() const { return unit * product_or_zero(x, log_ratio()); }
    DLK_INLINE Vec<T> d_input() const { return unit * (log_ratio() + Vec<T>(1)); }
    DLK_INLINE Vec<T> d_target() const { return -unit * product_or_zero(x, Vec<T>(1) / t); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x, o.t, Vec<T>(unit)}; }
};

// x: sums of weights, and of gradients along broadcast dimensions.
template <class T> struct Total : NoParameters<T> {
  static constexpr int kOperands = 1;
  using NoParameters<T>::NoParameters;
  struct At {
    Vec<T> x;
    DLK_INLINE Vec<T> value() const { return x; }
    DLK_INLINE Vec<T> d_input() const { return Vec<T>(1); }
    DLK_INLINE Vec<T> d_target() const { return Vec<T>(0); }
    DLK_INLINE Vec<T> d_third() const { return Vec<T>(0); }
  };
  DLK_INLINE At at(const LossOperands<T>& o) const { return {o.x}; }
};

} // namespace dlk::DLK_ISA

#endif

// DLK_LOSS(key, Functor, name in errors, shapes): the order is the index the kernel takes.
// clang-format off
#define DLK_ELEMENTWISE_LOSSES(DLK_LOSS)                                                           \
  DLK_LOSS(total, Total, "sum", kNoTarget)                                                         \
  DLK_LOSS(mse_loss, MseLoss, "mse_loss", kThirdAsInput | kWeightedMean)                           \
  DLK_LOSS(l1_loss, L1Loss, "l1_loss", kThirdAsInput | kWeightedMean)                              \
  DLK_LOSS(smooth_l1_loss, SmoothL1Loss, "smooth_l1_loss", 0)                                      \
  DLK_LOSS(huber_loss, HuberLoss, "huber_loss", kThirdAsInput)                                     \
  DLK_LOSS(kl_div, KlDiv, "kl_div", 0)                                                             \
  DLK_LOSS(kl_div_log_target, KlDivLogTarget, "kl_div", 0)                                         \
  DLK_LOSS(binary_cross_entropy, BinaryCrossEntropy, "binary_cross_entropy",                       \
           kTargetAsInput | kFitInput | kChecked)                                                  \
  DLK_LOSS(binary_cross_entropy_with_logits, BinaryCrossEntropyWithLogits,                         \
           "binary_cross_entropy_with_logits", kTargetAsInput | kFitInput)                         \
  DLK_LOSS(gaussian_nll_loss, GaussianNllLoss, "gaussian_nll_loss", kVariance | kChecked)          \
  DLK_LOSS(poisson_nll_loss, PoissonNllLoss, "poisson_nll_loss", 0)                                \
  DLK_LOSS(poisson_nll_loss_of_log, PoissonNllLossOfLog, "poisson_nll_loss", 0)                    \
  DLK_LOSS(sigmoid_focal_loss, SigmoidFocalLoss, "sigmoid_focal_loss", kTargetAsInput)             \
  DLK_LOSS(entropy, Entropy, "entropy", kNoTarget)                                                 \
  DLK_LOSS(cross_entropy_of_distributions, CrossEntropyOfDistributions,                            \
           "cross_entropy_of_distributions", 0)                                                    \
  DLK_LOSS(kl_divergence, KlDivergence, "kl_divergence", 0)
// clang-format on
