// How the kernels of batch normalization walk an array: planes or rows, and with what strides.
#pragma once

#include "bindings/arrays/tensor.h"
#include "core/strided.h"

namespace dlk {

// Chosen by the input; every other array of the call is walked alike.
struct NormLayout {
  bool rows;
  bool swapped; // planes of a column-major matrix: its batch becomes the positions
  int64_t batches, channels, positions;
  int64_t fold;        // rows of the array that make one row of the kernel
  int64_t width, tail; // rows: of the kernel's
};

// The layout that walks `input`. An input that none can walk is copied once, without its gaps or,
// where that is not enough, row-major: `input` becomes the copy, and `owner` keeps it alive.
NormLayout norm_layout(TensorView& input, py::object& owner);

// `view` as strides over that layout; false where it lies otherwise.
bool norm_strides(const TensorView& view, const NormLayout& layout, ClassArray& out);

// An array of `input`'s shape to be read: as it lies, or copied into `input`'s memory order.
struct NormOperand {
  ClassArray strides;
  py::object owner;
};
NormOperand norm_operand(const TensorView& view, const TensorView& input, const NormLayout& layout);

} // namespace dlk
