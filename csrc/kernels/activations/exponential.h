// Activations made from exponentials and logarithms.
#pragma once

#include "simd/math.h"

namespace dlk::DLK_ISA {

// y = 1 / (1 + e^-x); dx = g y (1 - y). Reference: torch.sigmoid. Error: 3 ULP, gradient 2 eps.
template <class T> struct Sigmoid {
  explicit Sigmoid(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return sigmoid(x); }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> y) const { return g * (y * (Vec<T>(1) - y)); }
};

// dx = g (1 - y^2), by factors, of which the one that cancels is exact.
// Reference: torch.tanh. Error: 3.5 ULP, gradient 2 eps.
template <class T> struct Tanh {
  explicit Tanh(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return tanh(x); }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> y) const {
    return g * ((Vec<T>(1) - y) * (Vec<T>(1) + y));
  }
};

// y = ln(1 / (1 + e^-x)) = -softplus(-x); dx = g (1 - e^y) = g / (1 + e^x).
// Reference: torch.nn.functional.logsigmoid. Error: 2 ULP, gradient 3 ULP.
template <class T> struct Logsigmoid {
  explicit Logsigmoid(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    return min(Vec<T>(0), x) - log1p_unit(exp_nonpositive(-abs(x)));
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> y) const { return -g * expm1_nonpositive(y); }
};

// y = a x where x > 0, else b (e^(x / c) - 1); dx = a g where y > 0, else g (y + b) / c. The
// gradient is made from y: its error is that of y, half an ULP of b, not of itself.
template <class T> struct ExponentialUnit {
  ExponentialUnit(double a, double b, double c)
      : a_(T(a)), b_(T(b)), inverse_c_(T(1 / c)), b_over_c_(T(b / c)) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    return select(x > Vec<T>(0), a_ * x, b_ * expm1_nonpositive(x * inverse_c_));
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> y) const {
    return g * select(y > Vec<T>(0), a_, fma(y, inverse_c_, b_over_c_));
  }

private:
  Vec<T> a_, b_, inverse_c_, b_over_c_;
};

// y = alpha (e^x - 1) where x <= 0. Reference: torch.nn.functional.elu. Error: 3 ULP, gradient 2
// eps of 1 + |alpha|.
template <class T> struct Elu : ExponentialUnit<T> {
  explicit Elu(const double* p) : ExponentialUnit<T>(1, p[0], 1) {}
};

// y = alpha (e^(x / alpha) - 1) where x <= 0. Reference: torch.nn.functional.celu. Error: 4 ULP,
// gradient 2 eps of 1.
template <class T> struct Celu : ExponentialUnit<T> {
  explicit Celu(const double* p) : ExponentialUnit<T>(1, p[0], p[0]) {}
};

// elu with the constants that keep mean 0 and variance 1. Reference: torch.nn.functional.selu.
// Error: 3 ULP, gradient 2 eps of 3.
template <class T> struct Selu : ExponentialUnit<T> {
  static constexpr double kScale = 1.0507009873554804934, kAlpha = 1.6732632423543772848;
  explicit Selu(const double*) : ExponentialUnit<T>(kScale, kScale * kAlpha, 1) {}
};

// sigmoid(x), to be restored when it has been multiplied.
template <class T> DLK_INLINE Vec<T> guarded_sigmoid(Vec<T> x, const ExpTail<T>& tail) {
  return select(x < Vec<T>(0), tail.e, Vec<T>(1)) / (Vec<T>(1) + tail.e);
}

// y = ln(1 + e^(beta x)) / beta; x where beta x > threshold. dx = g / (1 + e^(-beta x)); g there.
// Reference: torch.nn.functional.softplus. Error: 3 ULP (+ |beta x| / 2 unless beta is a power of
// two), gradient 3 ULP (likewise).
template <class T> struct Softplus {
  explicit Softplus(const double* p)
      : beta_(T(p[0])), inverse_beta_(T(1 / p[0])), threshold_(T(p[1])) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    const Vec<T> scaled = x * beta_;
    const ExpTail<T> tail(scaled, scaled);
    const Vec<T> y = (max(Vec<T>(0), scaled) + log1p_unit(tail.e)) * inverse_beta_;
    return select(scaled > threshold_, x, tail.restored(y));
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> x) const {
    const Vec<T> scaled = x * beta_;
    const ExpTail<T> tail(scaled, scaled);
    const Vec<T> dx = tail.restored(g * guarded_sigmoid(scaled, tail));
    return select(scaled > threshold_, g, dx);
  }

private:
  Vec<T> beta_, inverse_beta_, threshold_;
};

// What sigmoid(x) and its derivative are made of, without 1 - sigmoid(x): that cancels. Each is to
// be restored when it has been multiplied; with kBothTails the slope for large x too.
template <class T, bool kBothTails = false> struct Logistic {
  ExpTail<T> tail;
  Vec<T> scale; // 1 / (1 + e)
  IntVec<T> is_negative;

  DLK_INLINE explicit Logistic(Vec<T> x)
      : tail(x, kBothTails ? -abs(x) : x), scale(Vec<T>(1) / (Vec<T>(1) + tail.e)),
        is_negative(x < Vec<T>(0)) {}
  DLK_INLINE Vec<T> value() const { return scale * select(is_negative, tail.e, Vec<T>(1)); }
  DLK_INLINE Vec<T> slope() const { return tail.e * scale * scale; }
  DLK_INLINE Vec<T> restored_value(Vec<T> product) const {
    const Vec<T> restored = tail.restored(product);
    return kBothTails ? select(is_negative, restored, product) : restored;
  }
};

// Infinities, where the terms of x sigmoid(x) and its like are inf * 0, as the last finite number
// that matters: a factor of e^-|x|, which is 0 from there on.
template <class T> DLK_INLINE Vec<T> above_exp(Vec<T> x) {
  return max(Vec<T>(MathConstants<T>::kExpLowest), x);
}
template <class T> DLK_INLINE Vec<T> within_exp(Vec<T> x) {
  return min(Vec<T>(-MathConstants<T>::kExpLowest), above_exp(x));
}

// y = x sigmoid(x); dx = g (sigmoid(x) + x sigmoid'(x)). Reference: torch.nn.functional.silu.
// Error: 3 ULP, gradient 4 eps of its terms. y(-inf) is its limit, -0, as are the derivatives at
// both infinities, where torch has NaN.
template <class T> struct Silu {
  explicit Silu(const double*) {}
  // To be restored.
  DLK_INLINE static Vec<T> guarded(Vec<T> x, const ExpTail<T>& tail) {
    const Vec<T> at = above_exp(x);
    return select(x < Vec<T>(0), at * tail.e, at) / (Vec<T>(1) + tail.e);
  }
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    const ExpTail<T> tail(x, x);
    return tail.restored(guarded(x, tail));
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> x) const {
    const Logistic<T> logistic(x);
    return logistic.restored_value(g * fma(within_exp(x), logistic.slope(), logistic.value()));
  }
};

// y = x tanh(ln(1 + e^x)). With n = e^x that is x t, t = n (n + 2) / (n (n + 2) + 2), made from
// e^-|x| on either side of 0; dx = g (t + x sigmoid(x) (1 - t^2)).
// Reference: torch.nn.functional.mish. Error: 5 ULP, gradient 8 eps of its terms. Infinities as
// silu.
template <class T> struct Mish {
  explicit Mish(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    const Parts parts(x);
    return parts.tail.restored(above_exp(x) * parts.top / (parts.top + parts.rest));
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> x) const {
    const Vec<T> at = within_exp(x);
    const Parts parts(at);
    const Vec<T> bottom = parts.top + parts.rest;
    const Vec<T> inverse = Vec<T>(1) / bottom;
    const Vec<T> t = parts.top * inverse;
    // 1 - t^2 = (1 - t) (1 + t)
    const Vec<T> slope = parts.rest * inverse * (Vec<T>(1) + t);
    const Vec<T> e = parts.tail.e;
    const Vec<T> s = select(at < Vec<T>(0), e, Vec<T>(1)) / (Vec<T>(1) + e);
    return parts.tail.restored(g * fma(at * s, slope, t));
  }

private:
  struct Parts { // t = top / (top + rest)
    ExpTail<T> tail;
    Vec<T> top, rest;
    DLK_INLINE explicit Parts(Vec<T> x) : tail(x, x) {
      const IntVec<T> is_negative = x < Vec<T>(0);
      const Vec<T> e = tail.e, twice = e + e;
      top = select(is_negative, fma(e, e, twice), Vec<T>(1) + twice);
      rest = select(is_negative, Vec<T>(2), twice * e);
    }
  };
};

// y = x P, P the normal distribution up to x, erfc(-x / sqrt(2)) / 2; dx = g (P + x p), p its
// density. With approximate = "tanh" (parameter 1) P is (1 + tanh(u)) / 2 = sigmoid(2 u),
// u = sqrt(2 / pi) (x + 0.044715 x^3), which keeps the digits that 1 + tanh(u) cancels.
// Reference: torch.nn.functional.gelu. Error: float 6 ULP down to -5, 7 beyond, double 9 ULP,
// gradient 8 (10) eps of its terms; with tanh (4 + |2 u|) ULP, since u is rounded. y(-inf) is its
// limit, -0, as are y(inf) and the derivatives at both infinities, where torch has NaN.
template <class T> struct Gelu {
  explicit Gelu(const double* p) : tanh_(p[0] != 0) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    if (tanh_) {
      const Vec<T> at = max(Vec<T>(-kTanhLimit), x);
      const Vec<T> u = twice_u(min(Vec<T>(kTanhLimit), at));
      const ExpTail<T> tail(u, u);
      return tail.restored(at * guarded_sigmoid(u, tail));
    }
    // max(x, 0) - |x| P(-|x|), whose sign at 0 is that of x. (The tail of a NaN is a number.)
    const Vec<T> size = min(abs(x), Vec<T>(MathConstants<T>::kNormalLimit));
    return max(Vec<T>(T(-0.0)), x) - normal_tail(size, size * guarded_gauss(size));
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> x) const {
    if (tanh_) {
      const Vec<T> at = min(Vec<T>(kTanhLimit), max(Vec<T>(-kTanhLimit), x));
      const Logistic<T> logistic(twice_u(at));
      const Vec<T> inner = fma(at * at, Vec<T>(T(3 * kCubic)), Vec<T>(T(kLinear)));
      return logistic.restored_value(g * fma(at * inner, logistic.slope(), logistic.value()));
    }
    using M = MathConstants<T>;
    constexpr T limit = M::kNormalLimit;
    const Vec<T> above = max(Vec<T>(-limit), x);
    const Vec<T> at = min(Vec<T>(limit), above), number = min(above, Vec<T>(limit)); // of NaN limit
    const IntVec<T> is_deep = number < Vec<T>(-M::kNormalDeep); // as in ExpTail
    const bool any_deep = any_lane(is_deep);
    Vec<T> e = guarded_gauss(number);
    if (__builtin_expect(any_deep, false))
      e = select(is_deep, e * Vec<T>(1 / M::kGuardScale), e);
    constexpr T scale = T(0.39894228040143267794) * M::kGuardScale; // 1 / sqrt(2 pi)
    const Vec<T> density = e * Vec<T>(scale);
    Vec<T> dx = g * fma(at, density, normal_cdf(number, e));
    if (__builtin_expect(any_deep, false))
      dx = select(is_deep, dx * Vec<T>(M::kGuardScale), dx);
    return dx;
  }

private:
  static constexpr double kLinear = 1.5957691216057307117; // 2 sqrt(2 / pi)
  static constexpr double kCubic = 0.044715 * kLinear;
  static constexpr T kTanhLimit = sizeof(T) == 4 ? T(11.75) : T(25); // e^(2 u) is 0 beyond
  DLK_INLINE static Vec<T> twice_u(Vec<T> x) {
    return x * fma(x * x, Vec<T>(T(kCubic)), Vec<T>(T(kLinear)));
  }
  bool tanh_;
};

} // namespace dlk::DLK_ISA
