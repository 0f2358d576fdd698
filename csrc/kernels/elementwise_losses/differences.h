// Losses of the difference of input and target, and the plain sum.
#pragma once

#include "kernels/elementwise_losses/operands.h"

namespace dlk::DLK_ISA {

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

} // namespace dlk::DLK_ISA
