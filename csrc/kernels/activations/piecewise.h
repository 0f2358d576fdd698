// Activations without exponentials: linear in pieces, and their quotients and products.
#pragma once

#include "simd/vec.h"

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

} // namespace dlk::DLK_ISA
