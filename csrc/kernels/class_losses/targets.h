// What the kernels over class targets share: reading an index of any integer type, the weight
// each class of a soft target gets, and the sums of chunks of rows.
#pragma once

#include "kernels/class_losses/args.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {

DLK_INLINE int64_t load_index(const ClassIndices& target, int64_t batch, int64_t position) {
  const int64_t offset = batch * target.batch_stride + position * target.position_stride;
  switch (target.dtype) {
  case DType::int64:
    return static_cast<const int64_t*>(target.data)[offset];
  case DType::int32:
    return static_cast<const int32_t*>(target.data)[offset];
  case DType::uint8:
    return static_cast<const uint8_t*>(target.data)[offset];
  case DType::int16:
    return static_cast<const int16_t*>(target.data)[offset];
  case DType::int8:
    return static_cast<const int8_t*>(target.data)[offset];
  case DType::uint16:
    return static_cast<const uint16_t*>(target.data)[offset];
  case DType::uint32:
    return static_cast<const uint32_t*>(target.data)[offset];
  default:
    return static_cast<const int64_t*>(target.data)[offset]; // uint64: above 2^63 negative
  }
}

// The gradient that arrives at a row's loss.
template <class T> DLK_INLINE double grad_output_of(const CrossEntropyArgs& args, int64_t row) {
  return args.grad_output_rows
             ? double(load_scalar(static_cast<const T*>(args.grad_output_rows) + row))
             : args.grad_output;
}

// What multiplies the cross-entropy's gradient: softmax of a single class is 1 whatever its logit.
DLK_INLINE double cross_entropy_scale(const CrossEntropyArgs& args) {
  return args.classes == 1 ? 0 : args.row_scale;
}

// The loss of a chunk with all its digits, so that the sum does not depend on where chunks end.
DLK_INLINE void keep_partial(const CrossEntropyArgs& args, int64_t chunk, CompensatedSum loss) {
  args.loss_partials[2 * chunk] = loss.sum;
  args.loss_partials[2 * chunk + 1] = loss.lost == loss.lost ? loss.lost : 0; // NaN beside inf
}
DLK_INLINE double sum_of_partials(const CrossEntropyArgs& args, int64_t chunks) {
  CompensatedSum sum;
  for (int64_t part = 0; part < 2 * chunks; ++part)
    sum.add(args.loss_partials[part]);
  return sum.total();
}

// The part of a target that every class has: weight * (probability * keep + uniform), where `keep`
// is 1 - label_smoothing and `uniform` label_smoothing / classes.
template <class T> struct SoftTarget {
  using C = Compute<T>;
  const T* probability = nullptr; // of this row, or nullptr: index targets
  const T* weight = nullptr;      // nullptr: ones
  C keep = 1, uniform = 0;

  SoftTarget() = default;
  template <class Args>
  DLK_INLINE explicit SoftTarget(const Args& args)
      : weight(static_cast<const T*>(args.weight)),
        keep(C(1 - (args.label_smoothing > 0 ? args.label_smoothing : 0))),
        uniform(C((args.label_smoothing > 0 ? args.label_smoothing : 0) / double(args.classes))) {}

  template <class Lanes> DLK_INLINE Vec<C> at(int64_t index, Lanes lanes) const {
    Vec<C> value(uniform);
    if (probability)
      value = fma(load_lanes(probability + index, lanes), Vec<C>(keep), value);
    if (weight)
      value = value * load_lanes(weight + index, lanes);
    return value;
  }
};

// The first class of the largest value; the first NaN counts as the largest, as in torch.
template <class T> DLK_INLINE int64_t argmax_strided(const T* x, int64_t stride, int64_t classes) {
  Compute<T> best = Compute<T>(-__builtin_inf());
  int64_t index = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const Compute<T> value = load_scalar(x + c * stride);
    if (value != value)
      return c;
    if (value > best) {
      best = value;
      index = c;
    }
  }
  return index;
}

} // namespace dlk::DLK_ISA
