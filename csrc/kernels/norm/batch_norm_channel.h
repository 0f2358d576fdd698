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

// --- a channel's numbers, rounded to the computing type

// A number as C(number) and the rest that this lacks. Where the number is large beside the spread
// of x, x - C(number) is exact: the rest is taken off a constant that is added later, so nothing of
// the number is lost and no element costs more.
template <class C> struct Split {
  C rounded;
  double rest; // 0 of an infinity and of NaN
  DLK_INLINE explicit Split(double number) : rounded(C(number)), rest(number - double(rounded)) {
    if (!(rest - rest == 0))
      rest = 0;
  }
  // sum - rest * factor; without a rest the sum itself, were the factor infinite
  DLK_INLINE double off(double sum, double factor) const {
    return rest == 0 ? sum : sum - rest * factor;
  }
};

template <class C> struct Coefficients {
  Split<C> mean_split;
  C mean, scale, shift;
  // backward: dx = (dy - dy_mean) * scale + (x - mean) * slope + offset
  C dy_mean = 0, slope = 0, offset = 0;

  Coefficients(const BatchNormArgs& args, int64_t channel)
      : mean_split(args.mean[channel]), mean(mean_split.rounded),
        scale(C(args.invstd[channel] * (args.weight ? args.weight[channel] : 1))),
        shift(C(mean_split.off(args.bias ? args.bias[channel] : 0, double(scale)))) {}

  // dx = scale (dy - mean(dy) - (x - mean) invstd^2 mean(dy (x - mean)))
  void differentiate_statistics(const BatchNormArgs& args, int64_t channel) {
    const double invstd = args.invstd[channel], weight = args.weight ? args.weight[channel] : 1;
    const Split<C> dy_mean_split(args.sum_dy[channel] / args.count);
    dy_mean = dy_mean_split.rounded;
    slope = C(-(args.sum_dy_xmu[channel] / args.count * invstd) * invstd * (invstd * weight));
    offset = C(mean_split.off(dy_mean_split.off(0, double(scale)), double(slope)));
  }
};

DLK_INLINE double inverse_std(double m2, double count, double eps) {
  return (Vec<double>(1) / sqrt(Vec<double>(m2 / count + eps))).part[0][0];
}

// Planes: one channel in every lane.
template <class C> struct PlaneCoefficients {
  Vec<C> mean_, scale_, shift_, dy_mean_, slope_, offset_;
  explicit PlaneCoefficients(const Coefficients<C>& c)
      : mean_(c.mean), scale_(c.scale), shift_(c.shift), dy_mean_(c.dy_mean), slope_(c.slope),
        offset_(c.offset) {}
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
  void set(int64_t column, const Coefficients<C>& c) const {
    C* p = table + column;
    p[0] = c.mean;
    p[stride] = c.scale;
    p[2 * stride] = c.shift;
    p[3 * stride] = c.dy_mean;
    p[4 * stride] = c.slope;
    p[5 * stride] = c.offset;
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
