// Arrays of the operations that split or join along an axis.
#pragma once

#include "bindings/call.h"

#include <algorithm>

namespace dlk {

// A row-major array seen as (outer, axis, inner).
struct AxisSplit {
  TensorView view; // the array, or a row-major copy
  int axis;
  int64_t outer = 1, length, inner = 1;

  AxisSplit(py::handle object, int given_axis, const char* operation, const char* argument)
      : view(view_of(object, operation, argument)), axis(given_axis) {
    check_floating(view, operation, argument);
    if (axis < 0)
      axis += view.ndim;
    if (axis < 0 || axis >= view.ndim)
      throw py::index_error(text(operation, ": axis ", given_axis, " is out of range for an array ",
                                 "of ", view.ndim, " dimensions"));
    for (int dim = 0; dim < view.ndim; ++dim)
      (dim < axis ? outer : inner) *= dim == axis ? 1 : view.shape[dim];
    length = view.shape[axis];
    make_contiguous(view);
  }

  // A new array of this shape but for the axis.
  py::object make(int64_t axis_length, TensorView& result) const {
    int64_t shape[kMaxDims];
    std::copy_n(view.shape, view.ndim, shape);
    shape[axis] = axis_length;
    return make_array(view, view.dtype, view.ndim, shape, nullptr, result);
  }
};

} // namespace dlk
