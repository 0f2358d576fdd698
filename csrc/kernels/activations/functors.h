// The activations: one functor each, and the list that everything else is made from (dispatch, the
// binding, both Python fronts' names).
//
// A functor has, for Vec<T> of float and double (half types come and go as float):
//   Functor(const double*)  from the parameters, in the order of torch's arguments; at most two
//   forward(x)              y
//   backward(g, saved)      dx, from the output gradient and what backward needs: the input, the
//                           output, or the mask, one bit an element, which comes from
//   mask(x)                 where the gradient passes
// The binding includes this file for the list alone (no DLK_ISA there).
#pragma once

namespace dlk {
enum class Saved { input, output, mask };
}

#ifdef DLK_ISA

#include "simd/math.h"

namespace dlk::DLK_ISA {

// y = x where x > 0 (or is NaN), else 0. The gradient passes where y > 0 or y is NaN.
// Reference: torch.relu. Exact; -0 stays -0.
template <class T> struct Relu {
  explicit Relu(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return select(x < Vec<T>(0), Vec<T>(0), x); }
  DLK_INLINE IntVec<T> mask(Vec<T> x) const { return (x <= Vec<T>(0)) ^ IntVec<T>(-1); }
  DLK_INLINE Vec<T> backward(Vec<T> g, IntVec<T> passes) const {
    return select(passes, g, Vec<T>(0));
  }
};

// y = min(max(x, lowest), highest). The gradient passes strictly between the limits, and not at
// NaN. Reference: torch.nn.functional.hardtanh. Exact; a limit of 0 keeps the -0 that reaches it.
template <class T> struct Hardtanh {
  explicit Hardtanh(const double* p) : lowest_(T(p[0])), highest_(T(p[1])) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return min(highest_, max(lowest_, x)); }
  DLK_INLINE IntVec<T> mask(Vec<T> x) const { return (x > lowest_) & (x < highest_); }
  DLK_INLINE Vec<T> backward(Vec<T> g, IntVec<T> passes) const {
    return select(passes, g, Vec<T>(0));
  }

private:
  Vec<T> lowest_, highest_;
};

// y = min(max(x, 0), 6). Reference: torch.nn.functional.relu6. Exact.
template <class T> struct Relu6 : Hardtanh<T> {
  static constexpr double kLimits[2] = {0, 6};
  explicit Relu6(const double*) : Hardtanh<T>(kLimits) {}
};

// y = x where x > threshold (or is NaN), else value. Reference: torch.nn.functional.threshold.
// Exact.
template <class T> struct Threshold {
  explicit Threshold(const double* p) : threshold_(T(p[0])), value_(T(p[1])) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return select(x <= threshold_, value_, x); }
  DLK_INLINE IntVec<T> mask(Vec<T> x) const { return (x <= threshold_) ^ IntVec<T>(-1); }
  DLK_INLINE Vec<T> backward(Vec<T> g, IntVec<T> passes) const {
    return select(passes, g, Vec<T>(0));
  }

private:
  Vec<T> threshold_, value_;
};

// y = x where x > 0, else slope x. Reference: torch.nn.functional.leaky_relu. One rounding.
template <class T> struct LeakyRelu {
  explicit LeakyRelu(const double* p) : slope_(T(p[0])) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return select(mask(x), x, slope_ * x); }
  DLK_INLINE IntVec<T> mask(Vec<T> x) const { return x > Vec<T>(0); }
  DLK_INLINE Vec<T> backward(Vec<T> g, IntVec<T> passes) const {
    return select(passes, g, slope_ * g);
  }

private:
  Vec<T> slope_;
};

// y = min(max(x + 3, 0), 6) / 6; dx = g / 6 strictly inside, and not at NaN.
// Reference: torch.nn.functional.hardsigmoid. Error: 1 eps (of 1), gradient 1 eps.
template <class T> struct Hardsigmoid {
  explicit Hardsigmoid(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    return min(Vec<T>(6), max(Vec<T>(0), x + Vec<T>(3))) / Vec<T>(6);
  }
  DLK_INLINE IntVec<T> mask(Vec<T> x) const { return (x > Vec<T>(-3)) & (x < Vec<T>(3)); }
  DLK_INLINE Vec<T> backward(Vec<T> g, IntVec<T> passes) const {
    return select(passes, g * Vec<T>(T(1.0 / 6)), Vec<T>(0));
  }
};

// y = x min(max(x + 3, 0), 6) / 6; dx = g (x / 3 + 1/2) inside, g above 3, 0 below -3.
// Reference: torch.nn.functional.hardswish. Error: 2 eps of |x|, gradient 2 eps of 1 + |x|.
// y(-inf) is its limit, -0, where torch has NaN.
template <class T> struct Hardswish {
  explicit Hardswish(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    const Vec<T> at = max(Vec<T>(-3), x);
    return at * (min(Vec<T>(6), at + Vec<T>(3)) / Vec<T>(6));
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> x) const {
    const Vec<T> inside = fma(x, Vec<T>(T(1.0 / 3)), Vec<T>(T(0.5)));
    const Vec<T> slope = select(x >= Vec<T>(3), Vec<T>(1), inside);
    return select(x <= Vec<T>(-3), Vec<T>(0), g * slope);
  }
};

// y = x / (1 + |x|); dx = g (1 - |y|)^2. Reference: torch.nn.functional.softsign. Error: 1 eps,
// gradient 3 eps. y(+-inf) is its limit, +-1, where torch has NaN.
template <class T> struct Softsign {
  explicit Softsign(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const {
    const Vec<T> y = x / (Vec<T>(1) + abs(x));
    return select(abs(x) == Vec<T>(T(__builtin_inf())), copy_sign(Vec<T>(1), x), y);
  }
  DLK_INLINE Vec<T> backward(Vec<T> g, Vec<T> y) const {
    const Vec<T> rest = Vec<T>(1) - abs(y);
    return g * rest * rest;
  }
};

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
    // max(x, 0) - |x| P(-|x|), whose sign at 0 is that of x. Of a NaN the tail knows nothing.
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

#endif

// DLK_ACTIVATION(name, Functor, what backward needs): the order is the index the kernel takes.
// clang-format off
#define DLK_ACTIVATIONS(DLK_ACTIVATION)                                                            \
  DLK_ACTIVATION(relu, Relu, mask)                                                                 \
  DLK_ACTIVATION(relu6, Relu6, mask)                                                               \
  DLK_ACTIVATION(hardtanh, Hardtanh, mask)                                                         \
  DLK_ACTIVATION(threshold, Threshold, mask)                                                       \
  DLK_ACTIVATION(leaky_relu, LeakyRelu, mask)                                                      \
  DLK_ACTIVATION(hardsigmoid, Hardsigmoid, mask)                                                   \
  DLK_ACTIVATION(hardswish, Hardswish, input)                                                      \
  DLK_ACTIVATION(softsign, Softsign, output)                                                       \
  DLK_ACTIVATION(sigmoid, Sigmoid, output)                                                         \
  DLK_ACTIVATION(tanh, Tanh, output)                                                               \
  DLK_ACTIVATION(logsigmoid, Logsigmoid, output)                                                   \
  DLK_ACTIVATION(elu, Elu, output)                                                                 \
  DLK_ACTIVATION(celu, Celu, output)                                                               \
  DLK_ACTIVATION(selu, Selu, output)                                                               \
  DLK_ACTIVATION(softplus, Softplus, input)                                                        \
  DLK_ACTIVATION(silu, Silu, input)                                                                \
  DLK_ACTIVATION(mish, Mish, input)                                                                \
  DLK_ACTIVATION(gelu, Gelu, input)
// clang-format on
