// The activations: one functor each, of the name in list.h.
//
// A functor has, for Vec<T> of float and double (half types come and go as float):
//   Functor(const double*)  from the parameters, in the order of torch's arguments; at most two
//   forward(x)              y
//   backward(g, saved)      dx, from the output gradient and what backward needs: the input, the
//                           output, or the mask, one bit an element, which comes from
//   mask(x)                 where the gradient passes
#pragma once

#include "kernels/activations/exponential.h"
#include "kernels/activations/list.h"
#include "kernels/activations/piecewise.h"
