#include "bindings/norm/norm_layout.h"

#include "bindings/arrays/class_layout.h"

#include <numeric>

namespace dlk {
namespace {

constexpr int64_t kVecElems = 16;
constexpr int64_t kLeastWidth = 64; // shorter rows are taken together

// The stride from row to row, where there is one for all.
bool row_stride(const ClassArray& a, const ClassLayout& shape, int64_t& stride) {
  if (shape.batches == 1 || shape.positions == 1) {
    stride = shape.positions == 1 ? a.batch_stride : a.position_stride;
    return true;
  }
  stride = a.position_stride;
  return a.batch_stride == shape.positions * a.position_stride;
}

// Does some dimension repeat the same elements? A result cannot be laid out like that.
bool expanded(const TensorView& view) {
  for (int dim = 0; dim < view.ndim; ++dim)
    if (view.shape[dim] > 1 && view.strides[dim] == 0)
      return true;
  return false;
}

bool choose(const TensorView& input, NormLayout& layout) {
  const ClassLayout shape = class_layout(input, 1);
  ClassArray strides;
  if (expanded(input) || !class_strides(input, 1, strides))
    return false;
  layout = {false, false, shape.batches, shape.classes, shape.positions, 1, 0, 0};
  if (shape.classes > 1 && strides.class_stride == 1) {
    int64_t stride;
    if (!row_stride(strides, shape, stride))
      return false;
    const int64_t rows = shape.batches * shape.positions;
    while (layout.fold * shape.classes % kVecElems != 0 ||
           (stride == shape.classes && layout.fold * shape.classes < kLeastWidth))
      layout.fold *= 2;
    if (layout.fold > 1 && stride != shape.classes && rows > 1)
      return false; // rows with gaps cannot be taken together
    layout.rows = true;
    layout.batches = rows / layout.fold;
    layout.positions = 1;
    layout.width = layout.fold * shape.classes;
    layout.tail = rows % layout.fold * shape.classes;
    return true;
  }
  if (shape.positions > 1)
    return strides.position_stride == 1;
  layout.swapped = true;
  std::swap(layout.batches, layout.positions);
  return strides.batch_stride == 1 || shape.batches == 1;
}

} // namespace

bool norm_strides(const TensorView& view, const NormLayout& layout, ClassArray& out) {
  if (!class_strides(view, 1, out))
    return false;
  if (layout.rows) {
    const ClassLayout shape = class_layout(view, 1);
    int64_t stride;
    if (out.class_stride != 1 || !row_stride(out, shape, stride))
      return false;
    if (layout.fold > 1 && stride != shape.classes && shape.batches * shape.positions > 1)
      return false;
    out.batch_stride = layout.fold > 1 ? layout.width : stride;
    out.class_stride = 1;
    return true;
  }
  if (layout.swapped)
    std::swap(out.batch_stride, out.position_stride);
  return layout.positions == 1 || out.position_stride == 1;
}

NormLayout norm_layout(TensorView& input) {
  NormLayout layout;
  if (choose(input, layout))
    return layout;
  TensorView copy = input;
  dense_strides_like(input, copy.strides);
  if (choose(copy, layout)) {
    make_array_like(input, input.dtype, copy);
    copy_elements(input, copy);
  } else {
    copy = contiguous_copy(input);
    choose(copy, layout);
  }
  input = copy;
  return layout;
}

NormOperand norm_operand(const TensorView& view, const TensorView& input,
                         const NormLayout& layout) {
  NormOperand operand;
  operand.owner = view.array;
  if (norm_strides(view, layout, operand.strides))
    return operand;
  TensorView copy;
  operand.owner = make_array_like(input, view.dtype, copy);
  copy_elements(view, copy);
  norm_strides(copy, layout, operand.strides);
  return operand;
}

} // namespace dlk
