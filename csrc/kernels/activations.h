// The activations: one functor each, and the list that everything else is made from (dispatch, the
// binding, both Python fronts' names).
//
// A functor has, for Vec<T> of float and double (half types come and go as float):
//   Functor(const double*)  from the parameters, in the order of torch's arguments; at most two
//   forward(x)              y
//   backward(g, saved)      dx, from the output gradient and what backward needs: the input, the
//                           output, or the mask, one bit an element, which comes from
//   mask(x)                 where the gradient passes
// The binding includes this file for the list alone (no DLK_ISA there).
#pragma once

namespace dlk {
enum class Saved { input, output, mask };
}

#ifdef DLK_ISA

#include "simd/math.h"

namespace dlk::DLK_ISA {

// y = x where x > 0 (or is NaN), else 0. The gradient passes where y > 0 or y is NaN.
// Reference: torch.relu. Exact; -0 stays -0.
template <class T> struct Relu {
  explicit Relu(const double*) {}
  DLK_INLINE Vec<T> forward(Vec<T> x) const { return select(x < Vec<T>(0), Vec<T>(0), x); }
  DLK_INLINE IntVec<T> mask(Vec<T> x) const { return (x <= Vec<T>(0)) ^ IntVec<T>(-1); }
  DLK_INLINE Vec<T> backward(Vec<T> g, IntVec<T> passes) const {
    return select(passes, g, Vec<T>(0));
  }
};

} // namespace dlk::DLK_ISA

#endif

// DLK_ACTIVATION(name, Functor, what backward needs): the order is the index the kernel takes.
// clang-format off
#define DLK_ACTIVATIONS(DLK_ACTIVATION)                                                            \
  DLK_ACTIVATION(relu, Relu, mask)
// clang-format on
