// Divergences and entropies of distributions.
#pragma once

#include "kernels/elementwise_losses/operands.h"

namespace dlk::DLK_ISA {

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

} // namespace dlk::DLK_ISA
