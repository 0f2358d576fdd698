// Softmax of rows so short that they stay in registers: read once, written once, nothing called on
// the way and no vector ever taken apart into numbers. Every row of so many classes takes this way,
// whoever calls, so that its bits depend on nothing else.
#pragma once

#include "simd/loops.h"
#include "simd/math.h"

namespace dlk::DLK_ISA {

constexpr int kShortRowVecs = 4;

template <class T> DLK_INLINE bool is_short_row(int64_t classes) {
  return classes > 0 && classes <= kShortRowVecs * Vec<Compute<T>>::kLanes;
}

// A row of kVecs vectors, of which the last is a step of another kind if it is partial.
template <class T, int kVecs, class Whole, class Last> struct ShortRow {
  using C = Compute<T>;
  static constexpr int64_t kLanes = Vec<C>::kLanes, kLast = (kVecs - 1) * kLanes;
  Last last;

  DLK_INLINE void read(const T* from, Vec<C> (&to)[kVecs], C fill) const {
#pragma GCC unroll 4
    for (int i = 0; i < kVecs - 1; ++i)
      to[i] = load_lanes(from + i * kLanes, Whole{});
    to[kVecs - 1] = load_lanes(from + kLast, last, fill);
  }
  DLK_INLINE void write(T* to, const Vec<C> (&from)[kVecs]) const {
#pragma GCC unroll 4
    for (int i = 0; i < kVecs - 1; ++i)
      store_lanes(to + i * kLanes, from[i], Whole{});
    store_lanes(to + kLast, from[kVecs - 1], last);
  }
  DLK_INLINE static Vec<C> sum(const Vec<C> (&values)[kVecs]) {
    Vec<C> total = values[0];
#pragma GCC unroll 4
    for (int i = 1; i < kVecs; ++i)
      total = total + values[i];
    return sum_to_lanes(total);
  }

  DLK_INLINE void softmax(bool logarithm, const T* x, T* y) const {
    const C lowest = C(-__builtin_inf());
    Vec<C> value[kVecs], e[kVecs];
    read(x, value, lowest);
    Vec<C> top = value[0];
#pragma GCC unroll 4
    for (int i = 1; i < kVecs; ++i)
      top = max(top, value[i]);
    top = max_to_lanes(top);
    const Vec<C> shift = select(top > Vec<C>(lowest), top, Vec<C>(0)); // 0: only -inf, or a NaN
#pragma GCC unroll 4
    for (int i = 0; i < kVecs; ++i) {
      Vec<C> rounded;
      value[i] = value[i] - shift;
      e[i] = exp_bounded(value[i], rounded);
    }
    const Vec<C> total = sum(e);
    if (logarithm) {
      const Vec<C> log_total = log(total);
#pragma GCC unroll 4
      for (int i = 0; i < kVecs; ++i)
        e[i] = min(Vec<C>(0), value[i] - log_total);
    } else {
      const Vec<C> factor = Vec<C>(1) / total;
#pragma GCC unroll 4
      for (int i = 0; i < kVecs; ++i)
        e[i] = e[i] * factor;
    }
    write(y, e);
  }

  DLK_INLINE void gradient(bool logarithm, const T* y, const T* g, T* dx) const {
    Vec<C> out[kVecs], grad[kVecs], term[kVecs];
    read(y, out, C(0));
    read(g, grad, C(0));
#pragma GCC unroll 4
    for (int i = 0; i < kVecs; ++i)
      term[i] = logarithm ? grad[i] : grad[i] * out[i];
    const Vec<C> total = sum(term);
#pragma GCC unroll 4
    for (int i = 0; i < kVecs; ++i)
      term[i] = logarithm ? fma(-exp(out[i]), total, grad[i]) : out[i] * (grad[i] - total);
    write(dx, term);
  }
};

template <int kCount> struct VecCount {
  static constexpr int value = kCount;
};

// f(row) with the ShortRow of so many classes. `streams`: whole vectors are written past the cache,
// and every row starts where that is possible.
template <class T, class F>
DLK_INLINE void with_short_row(int64_t classes, bool streams, F f) {
  constexpr int64_t lanes = Vec<Compute<T>>::kLanes;
  const PartialVec rest{(classes - 1) % lanes + 1};
  const bool whole = rest.count == lanes;
  const auto of_vecs = [&](auto vecs) DLK_BODY {
    constexpr int kVecs = decltype(vecs)::value;
    if (whole && streams)
      f(ShortRow<T, kVecs, StreamedVec, StreamedVec>{{}});
    else if (whole)
      f(ShortRow<T, kVecs, WholeVec, WholeVec>{{}});
    else
      f(ShortRow<T, kVecs, WholeVec, PartialVec>{rest});
  };
  switch ((classes + lanes - 1) / lanes) {
  case 1:
    return of_vecs(VecCount<1>());
  case 2:
    return of_vecs(VecCount<2>());
  case 3:
    return of_vecs(VecCount<3>());
  default:
    return of_vecs(VecCount<4>());
  }
}

} // namespace dlk::DLK_ISA
