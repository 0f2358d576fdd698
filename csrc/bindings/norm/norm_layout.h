// The layout in which the kernels of batch normalization see an array: planes or rows, and the
// strides.
#pragma once

#include "bindings/arrays/tensor.h"
#include "core/strided.h"

namespace dlk {

// Chosen by the input, for every array of the call.
struct NormLayout {
  bool rows;
  bool swapped; // planes of a column-major matrix: its batch becomes the positions
  int64_t batches, channels, positions;
  int64_t fold;        // rows of the array that make one row of the kernel
  int64_t width, tail; // rows: of the kernel's
};

// The layout of `input`. An input that fits none is copied once, without its gaps or,
// where that is not enough, row-major: `input` becomes the copy.
NormLayout norm_layout(TensorView& input);

// `view` as strides over that layout; false where its strides do not fit.
bool norm_strides(const TensorView& view, const NormLayout& layout, ClassArray& out);

// An array of `input`'s shape to be read: as it lies, or copied into `input`'s memory order.
struct NormOperand {
  ClassArray strides;
  py::object owner;
};
NormOperand norm_operand(const TensorView& view, const TensorView& input, const NormLayout& layout);

} // namespace dlk
