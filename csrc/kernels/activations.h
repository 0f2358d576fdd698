// The activations: one functor each, and the list that everything else is made from (dispatch, the
// binding, both Python fronts' names).
//
// A functor has, for Vec<T> of float and double (half types come and go as float):
//   forward(x)            y
//   backward(g, saved)    dx, from the output gradient and what kSaved names
//   kSaved                what backward needs: kInput, kOutput, or kMask, one bit an element:
//   mask(x)               for kMask: where the gradient passes
// The binding includes this file for the names alone (no DLK_ISA there).
#pragma once

#ifdef DLK_ISA

#include "simd/math.h"

namespace dlk::DLK_ISA {

enum class Saved { kInput, kOutput, kMask };

// y = x where x > 0 (or is NaN), else 0. The gradient passes where y > 0 or y is NaN.
// Reference: torch.relu. Exact; -0 stays -0.
template <class T> struct Relu {
  static constexpr Saved kSaved = Saved::kMask;
  explicit Relu(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return select(x < Vec<T>(0), Vec<T>(0), x); }
  DLK_INLINE IntVec<T> mask(Vec<T> x) const { return (x <= Vec<T>(0)) ^ IntVec<T>(-1); }
  DLK_INLINE Vec<T> backward(Vec<T> g, IntVec<T> passes) const {
    return select(passes, g, Vec<T>(0));
  }
};

} // namespace dlk::DLK_ISA

#endif

// DLK_ACTIVATION(name, Functor): the order is the index the kernel takes.
#define DLK_ACTIVATIONS(DLK_ACTIVATION) DLK_ACTIVATION(relu, Relu)
