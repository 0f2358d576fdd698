// Negative log-likelihoods: of a probability, a normal and a Poisson distribution.
#pragma once

#include "kernels/elementwise_losses/operands.h"

namespace dlk::DLK_ISA {

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

} // namespace dlk::DLK_ISA
