// What the functors of elementwise losses share.
#pragma once

#include "simd/math.h"

namespace dlk::DLK_ISA {

template <class T> struct LossOperands {
  Vec<T> x, t, w, p;
};
template <class T> struct BadLanes {
  IntVec<T> input{0}, target{0}, third{0};
};

// Where u is 0, 0 even if v is infinite: the limit.
template <class T> DLK_INLINE Vec<T> product_or_zero(Vec<T> u, Vec<T> v) {
  return select(u == Vec<T>(0), Vec<T>(0), u * v);
}

// A loss without parameters.
template <class T> struct NoParameters {
  static constexpr bool kChecks = false;
  explicit NoParameters(const double*) {}
};

} // namespace dlk::DLK_ISA
