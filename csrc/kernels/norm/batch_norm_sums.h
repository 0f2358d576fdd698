// The sums of batch normalization: in double, and for float64 with what rounding lost of them,
// since there no wider type has digits to spare; and moments that are merged.
#pragma once

#include "kernels/common/double_sums.h"

namespace dlk::DLK_ISA {

// One sum in each lane.
template <class C> struct LaneSums {
  Wide<C> sum = wide_zero<C>();
  DLK_INLINE void add(Wide<C> x) { sum = sum + x; }
  DLK_INLINE void add_product(Wide<C> a, Wide<C> b) { sum = fma(a, b, sum); }
  DLK_INLINE Wide<C> totals() const { return sum; }
  DLK_INLINE double total(const LaneSums& other) const { return sum_lanes(sum + other.sum); }
};

template <> struct LaneSums<double> {
  Vec<double> sum{0.0}, lost{0.0};
  DLK_INLINE void add(Wide<double> x) { lost = lost + two_sum(sum, x.low, sum); }
  DLK_INLINE void add_product(Wide<double> a, Wide<double> b) {
    const Vec<double> product = a.low * b.low;
    lost = lost + fma(a.low, b.low, -product);
    add({product});
  }
  // An infinite sum has lost a NaN.
  DLK_INLINE Wide<double> totals() const {
    const Vec<double> value = sum + lost;
    return {select(value == value, value, sum)};
  }
  DLK_INLINE double total(const LaneSums& other) const {
    constexpr int64_t lanes = Vec<double>::kLanes;
    alignas(kVecBytes) double values[4 * lanes];
    store(values, sum);
    store(values + lanes, other.sum);
    store(values + 2 * lanes, lost);
    store(values + 3 * lanes, other.lost);
    CompensatedSum all;
    for (int64_t i = 0; i < 2 * lanes; ++i)
      all.add(values[i]);
    for (int64_t i = 2 * lanes; i < 4 * lanes; ++i)
      all.lost += values[i];
    return all.total();
  }
};

// Mean, as itself and what it lacks, and sum of squared deviations of `count` elements; merged as
// Chan, Golub and LeVeque do. Where the mean is large, chunks' means differ by less than its
// digits.
struct Moments {
  double count = 0, mean = 0, low = 0, m2 = 0;

  DLK_INLINE void merge(const Moments& other) {
    if (count == 0) {
      *this = other;
      return;
    }
    const double total = count + other.count, share = other.count / total;
    const double gap = (other.mean - mean) + (other.low - low);
    move(gap * share);
    m2 += other.m2 + gap * gap * (count * share);
    count = total;
  }
  DLK_INLINE void move(double step) {
    low += two_sum(mean, step, mean);
    if (!(low == low)) // the mean is infinite
      low = 0;
  }
};

} // namespace dlk::DLK_ISA
