// Log-sum-exp of one row, in blocks small enough for L1, and the cap on logits that comes before
// it.
#pragma once

#include "kernels/class_losses/args.h"
#include "simd/loops.h"
#include "simd/math.h"

namespace dlk::DLK_ISA {

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
