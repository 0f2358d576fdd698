// What the kernels over class targets share: reading an index of any integer type, where a row
// lies, and the weight each class of a soft target gets.
#pragma once

#include "simd/loops.h"
#include "simd/math.h"

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

DLK_INLINE int64_t element_offset(const ClassArray& a, int64_t batch, int64_t position) {
  return batch * a.batch_stride + position * a.position_stride;
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

// --- one row, in blocks small enough for L1

// function(first, size) for each block of a row
template <class C, class Function>
DLK_INLINE void for_each_block(int64_t classes, Function function) {
  constexpr int64_t block = row_block_elems(sizeof(C));
  for (int64_t first = 0; first < classes; first += block)
    function(first, classes - first < block ? classes - first : block);
}

// tanh(x / softcap), and softcap times that.
template <class C> DLK_INLINE Vec<C> squashed(Vec<C> x, double softcap) {
  return tanh(x * Vec<C>(C(1 / softcap)));
}
template <class C> DLK_INLINE Vec<C> capped(Vec<C> x, double softcap) {
  return squashed(x, softcap) * Vec<C>(C(softcap));
}
template <class T>
DLK_BLOCK void cap_values(const T* x, int64_t size, double softcap, Compute<T>* to) {
  using C = Compute<T>;
  for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
    store_lanes(to + i, capped(load_lanes(x + i, lanes), softcap), lanes);
  });
}

template <class T> DLK_BLOCK Compute<T> block_max(const T* x, int64_t size) {
  using C = Compute<T>;
  constexpr int64_t lanes = Vec<C>::kLanes;
  const C lowest = C(-__builtin_inf());
  Vec<C> even(lowest), odd(lowest);
  int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    even = max(even, load(x + i));
    odd = max(odd, load(x + i + lanes));
  }
  for_each_vec<C>(size - i, [&](int64_t k, auto step) DLK_BODY {
    even = max(even, load_lanes(x + i + k, step, lowest));
  });
  return max_lanes(max(even, odd));
}

// One thread's scratch, of row_scratch_bytes: the row's exponentials, then each block's anchor.
template <class C> struct RowScratch {
  C *exps, *anchors;

  RowScratch(void* scratch, int64_t bytes_per_thread, int thread, int64_t classes)
      : exps(reinterpret_cast<C*>(static_cast<char*>(scratch) + thread * bytes_per_thread)),
        anchors(exps + classes) {}
};

// Above this exponent of two, plus kExp2Rounding, a value stands out from its anchor.
template <class C> constexpr C kAnchorMoves = kExp2Rounding<C> + C(1);

// A sum of exponentials relative to `from`, made relative to `to`.
DLK_INLINE void scale_sum(CompensatedSum& sum, double from, double to) {
  if (sum.sum == 0)
    return;
  const double factor = exp_scalar(from - to);
  sum.sum *= factor;
  sum.lost *= factor;
}

// Log-sum-exp of a row, block after block: sum of e^(x - anchor), in double.
//
// The anchor is the first block's largest value; later blocks are summed without looking first, and
// once more with a new anchor if a value stood out (by more than about 1). So a value near the
// row's largest is never far from the anchor, where the argument would be coarse.
template <class C> struct RowExpSum {
  C anchor = 0; // a value of the row, 0 while there are only -inf
  CompensatedSum sum;
  bool anchored = false;

  DLK_INLINE void set_anchor(C top) {
    if (!(top > C(-__builtin_inf())))
      return;
    scale_sum(sum, double(anchor), double(top));
    anchored = true;
    anchor = top;
  }

  // Adds a block; with kKeep its exponentials go to `exps`, relative to the anchor that is
  // returned. The lines at `ahead`, where the row goes on, are fetched meanwhile.
  template <bool kKeep, class S, class T>
  DLK_INLINE C add(const S* x, int64_t size, C* exps, const T* ahead) {
    if (!anchored)
      set_anchor(block_max(x, size));
    C highest, part = sum_block<kKeep>(x, size, exps, ahead, highest);
    if (highest > kAnchorMoves<C>) {
      set_anchor(block_max(x, size));
      part = sum_block<kKeep>(x, size, exps, ahead, highest);
    }
    sum.add(double(part));
    return anchor;
  }

  // `highest` receives the largest exponent of two, plus kExp2Rounding.
  template <bool kKeep, class S, class T>
  DLK_BLOCK C sum_block(const S* x, int64_t size, C* exps, const T* ahead, C& highest) const {
    const Vec<C> shift(anchor);
    Vec<C> total(C(0)), largest(C(0));
    for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
      __builtin_prefetch(ahead + i);
      const Vec<C> value = load_lanes(x + i, lanes, C(-__builtin_inf()));
      Vec<C> rounded;
      const Vec<C> e = exp_bounded(value - shift, rounded);
      if constexpr (kKeep)
        store_lanes(exps + i, e, lanes);
      largest = max_nonnegative(largest, rounded);
      total = total + e;
    });
    highest = max_lanes(largest);
    return sum_lanes(total);
  }
};

} // namespace dlk::DLK_ISA
