// What batch normalization does to an element: the channel's numbers, and the activation that
// follows.
//
// Every function that needs the value before the activation computes it as
//   z = fma(x - mean, scale, shift) [+ residual], scale = invstd * weight, shift = bias,
// so that backward sees forward's to the bit.
#pragma once

#include "kernels/activations/exponential.h"
#include "kernels/activations/piecewise.h"
#include "kernels/norm/args.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {

// --- what follows the normalization: functors of the activations

template <class C> struct NoActivation {
  static constexpr bool kIdentity = true, kMasks = false;
  explicit NoActivation(const BatchNormArgs&) {}
  DLK_INLINE Vec<C> forward(Vec<C> z) const { return z; }
  DLK_INLINE Vec<C> backward(Vec<C> g, Vec<C>) const { return g; }
};

// One whose backward needs a bit: where the gradient passes.
template <class C, template <class> class Functor> struct MaskedActivation {
  static constexpr bool kIdentity = false, kMasks = true;
  Functor<C> functor;
  explicit MaskedActivation(const BatchNormArgs& args) : functor(&args.negative_slope) {}
  DLK_INLINE Vec<C> forward(Vec<C> z) const { return functor.forward(z); }
  DLK_INLINE IntVec<C> passes(Vec<C> z) const { return functor.mask(z); }
  DLK_INLINE Vec<C> masked(Vec<C> g, IntVec<C> mask) const { return functor.backward(g, mask); }
  DLK_INLINE Vec<C> backward(Vec<C> g, Vec<C> z) const { return masked(g, passes(z)); }
};

// One whose backward needs z.
template <class C, template <class> class Functor> struct SmoothActivation {
  static constexpr bool kIdentity = false, kMasks = false;
  Functor<C> functor;
  explicit SmoothActivation(const BatchNormArgs&) : functor(nullptr) {}
  DLK_INLINE Vec<C> forward(Vec<C> z) const { return functor.forward(z); }
  DLK_INLINE Vec<C> backward(Vec<C> g, Vec<C> z) const { return functor.backward(g, z); }
};

// Calls f with a value of the storage type, and with the functor for what follows.
template <class F> DLK_INLINE void with_norm_types(const BatchNormArgs& args, F f) {
  with_storage_type(args.dtype, [&](auto type) {
    using C = Compute<decltype(type)>;
    switch (args.activation) {
    case NormActivation::none:
      return f(type, NoActivation<C>(args));
    case NormActivation::relu:
      return f(type, MaskedActivation<C, Relu>(args));
    case NormActivation::leaky_relu:
      return f(type, MaskedActivation<C, LeakyRelu>(args));
    default:
      return f(type, SmoothActivation<C, Silu>(args));
    }
  });
}

// --- eight channels' numbers, rounded to the computing type

// Doubles in memory rounded to the computing type.
template <class Lanes> DLK_INLINE void store_rounded(double* p, Vec<double> a, Lanes lanes) {
  store_lanes(p, a, lanes);
}
DLK_INLINE void store_rounded(float* p, Vec<double> a, WholeVec) {
  store_eight(p, a);
}
DLK_INLINE void store_rounded(float* p, Vec<double> a, PartialVec lanes) {
  float values[Vec<double>::kLanes];
  store_eight(values, a);
  for (int64_t i = 0; i < lanes.count; ++i)
    p[i] = values[i];
}

template <class C> DLK_INLINE Vec<double> rounded_to(Vec<double> a) {
  if constexpr (sizeof(C) == sizeof(double))
    return a;
  alignas(kVecBytes) float values[Vec<double>::kLanes];
  store_eight(values, a);
  return load_eight(values);
}

// A number as C(number) and the rest that this lacks. Where the number is large beside the spread
// of x, x - C(number) is exact: the rest is taken off a constant that is added later, so nothing of
// the number is lost and no element costs more.
template <class C> struct Split {
  Vec<double> rounded, rest; // rest: 0 of an infinity and of NaN
  DLK_INLINE explicit Split(Vec<double> number)
      : rounded(rounded_to<C>(number)), rest(number - rounded) {
    const Vec<double> zero(0);
    rest = select(rest - rest == zero, rest, zero);
  }
  // sum - rest * factor; without a rest the sum itself, were the factor infinite
  DLK_INLINE Vec<double> off(Vec<double> sum, Vec<double> factor) const {
    return select(rest == Vec<double>(0), sum, sum - rest * factor);
  }
};

template <class C> struct Coefficients {
  Vec<double> invstd, weight;
  Split<C> mean;
  Vec<double> scale, shift;
  // backward: dx = (dy - dy_mean) * scale + (x - mean) * slope + offset
  Vec<double> dy_mean{0}, slope{0}, offset{0};

  // Of `channel` and those after it, as many as `lanes` covers.
  template <class Lanes>
  DLK_INLINE Coefficients(const BatchNormArgs& args, int64_t channel, Lanes lanes)
      : invstd(load_lanes(args.invstd + channel, lanes)),
        weight(args.weight ? load_lanes(args.weight + channel, lanes) : Vec<double>(1)),
        mean(load_lanes(args.mean + channel, lanes)), scale(rounded_to<C>(invstd * weight)),
        shift(
            mean.off(args.bias ? load_lanes(args.bias + channel, lanes) : Vec<double>(0), scale)) {}

  // dx = scale (dy - mean(dy) - (x - mean) invstd^2 mean(dy (x - mean)))
  template <class Lanes>
  DLK_INLINE void differentiate_statistics(const BatchNormArgs& args, int64_t channel,
                                           Lanes lanes) {
    const Vec<double> count(args.count);
    const Split<C> dy_mean_split(load_lanes(args.sum_dy + channel, lanes) / count);
    dy_mean = dy_mean_split.rounded;
    const Vec<double> dy_xmu_mean = load_lanes(args.sum_dy_xmu + channel, lanes) / count;
    slope = rounded_to<C>(-(dy_xmu_mean * invstd) * invstd * (invstd * weight));
    offset = mean.off(dy_mean_split.off(Vec<double>(0), scale), slope);
  }
};

DLK_INLINE double inverse_std(double m2, double count, double eps) {
  return (Vec<double>(1) / sqrt(Vec<double>(m2 / count + eps))).part[0][0];
}

// Planes: one channel in every lane.
template <class C> struct PlaneCoefficients {
  Vec<C> mean_, scale_, shift_, dy_mean_, slope_, offset_;
  DLK_INLINE explicit PlaneCoefficients(const Coefficients<C>& c)
      : mean_(first(c.mean.rounded)), scale_(first(c.scale)), shift_(first(c.shift)),
        dy_mean_(first(c.dy_mean)), slope_(first(c.slope)), offset_(first(c.offset)) {}
  DLK_INLINE static C first(Vec<double> a) { return C(a.part[0][0]); }
  DLK_INLINE Vec<C> mean(int64_t) const { return mean_; }
  DLK_INLINE Vec<C> scale(int64_t) const { return scale_; }
  DLK_INLINE Vec<C> shift(int64_t) const { return shift_; }
  DLK_INLINE Vec<C> dy_mean(int64_t) const { return dy_mean_; }
  DLK_INLINE Vec<C> slope(int64_t) const { return slope_; }
  DLK_INLINE Vec<C> offset(int64_t) const { return offset_; }
};

// Rows: kNormCoefficients arrays, `stride` apart.
template <class C> struct RowCoefficients {
  C* table;
  int64_t stride;
  template <class Lanes>
  DLK_INLINE void set(int64_t column, const Coefficients<C>& c, Lanes lanes) const {
    C* p = table + column;
    store_rounded(p, c.mean.rounded, lanes);
    store_rounded(p + stride, c.scale, lanes);
    store_rounded(p + 2 * stride, c.shift, lanes);
    store_rounded(p + 3 * stride, c.dy_mean, lanes);
    store_rounded(p + 4 * stride, c.slope, lanes);
    store_rounded(p + 5 * stride, c.offset, lanes);
  }
  RowCoefficients from(int64_t column) const { return {table + column, stride}; }
  DLK_INLINE Vec<C> mean(int64_t i) const { return load(table + i); }
  DLK_INLINE Vec<C> scale(int64_t i) const { return load(table + stride + i); }
  DLK_INLINE Vec<C> shift(int64_t i) const { return load(table + 2 * stride + i); }
  DLK_INLINE Vec<C> dy_mean(int64_t i) const { return load(table + 3 * stride + i); }
  DLK_INLINE Vec<C> slope(int64_t i) const { return load(table + 4 * stride + i); }
  DLK_INLINE Vec<C> offset(int64_t i) const { return load(table + 5 * stride + i); }
};

} // namespace dlk::DLK_ISA
