// Sums in double of vectors of any type: no addend is lost to a large one before it.
#pragma once

#include "simd/loops.h"

namespace dlk::DLK_ISA {

// A vector as doubles.
template <class C> struct Wide;
template <> struct Wide<float> {
  Vec<double> low, high;
};
template <> struct Wide<double> {
  Vec<double> low;
};

DLK_INLINE Wide<float> load_wide(const float* p) {
  return {load_eight(p), load_eight(p + 8)};
}
DLK_INLINE Wide<double> load_wide(const double* p) {
  return {load(p)};
}
DLK_INLINE Wide<float> widen(Vec<float> a) {
  alignas(kVecBytes) float lanes[16];
  store(lanes, a);
  return load_wide(lanes);
}
DLK_INLINE Wide<double> widen(Vec<double> a) {
  return {a};
}
template <class C> DLK_INLINE Wide<C> operator+(Wide<C> a, Wide<C> b) {
  a.low = a.low + b.low;
  if constexpr (sizeof(C) == 4)
    a.high = a.high + b.high;
  return a;
}
template <class C> DLK_INLINE Wide<C> operator-(Wide<C> a, Wide<C> b) {
  a.low = a.low - b.low;
  if constexpr (sizeof(C) == 4)
    a.high = a.high - b.high;
  return a;
}
template <class C> DLK_INLINE Wide<C> operator*(Wide<C> a, Wide<C> b) {
  a.low = a.low * b.low;
  if constexpr (sizeof(C) == 4)
    a.high = a.high * b.high;
  return a;
}
template <class C> DLK_INLINE Wide<C> operator/(Wide<C> a, Wide<C> b) {
  a.low = a.low / b.low;
  if constexpr (sizeof(C) == 4)
    a.high = a.high / b.high;
  return a;
}
template <class C> DLK_INLINE Wide<C> max(Wide<C> a, Wide<C> b) {
  b.low = max(a.low, b.low);
  if constexpr (sizeof(C) == 4)
    b.high = max(a.high, b.high);
  return b;
}
template <class C> DLK_INLINE Wide<C> fma(Wide<C> a, Wide<C> b, Wide<C> c) {
  c.low = fma(a.low, b.low, c.low);
  if constexpr (sizeof(C) == 4)
    c.high = fma(a.high, b.high, c.high);
  return c;
}
template <class C> DLK_INLINE void store(double* p, Wide<C> a) {
  store(p, a.low);
  if constexpr (sizeof(C) == 4)
    store(p + Vec<double>::kLanes, a.high);
}
// Of doubles: as many as C has lanes.
template <class C> DLK_INLINE Wide<C> load_doubles(const double* p) {
  Wide<C> a;
  a.low = load(p);
  if constexpr (sizeof(C) == 4)
    a.high = load(p + Vec<double>::kLanes);
  return a;
}
template <class T, class Lanes>
DLK_INLINE Wide<Compute<T>> load_wide_lanes(const T* p, Lanes lanes, Compute<T> fill = 0) {
  if constexpr (kIsHalf<T> || sizeof(Lanes) > 1)
    return widen(load_lanes(p, lanes, fill));
  else
    return load_wide(p);
}
template <class C> DLK_INLINE Wide<C> wide_of(double value) {
  Wide<C> a;
  a.low = Vec<double>(value);
  if constexpr (sizeof(C) == 4)
    a.high = Vec<double>(value);
  return a;
}
template <class C> DLK_INLINE Wide<C> wide_zero() {
  return wide_of<C>(0);
}
template <class C> DLK_INLINE double sum_lanes(Wide<C> a) {
  if constexpr (sizeof(C) == 4)
    a.low = a.low + a.high;
  return sum_lanes(a.low);
}

} // namespace dlk::DLK_ISA
