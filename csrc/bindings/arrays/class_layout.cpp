#include "bindings/arrays/class_layout.h"

namespace dlk {

namespace {

// The one stride of dimensions [begin, end) joined in row-major order, if they can be joined.
bool collapse(const TensorView& view, int begin, int end, int64_t& stride) {
  stride = 0;
  int64_t expected = 0; // stride of the next dimension outwards
  bool seen = false;
  for (int dim = end - 1; dim >= begin; --dim) {
    if (view.shape[dim] == 1)
      continue;
    if (!seen)
      stride = expected = view.strides[dim];
    else if (view.strides[dim] != expected)
      return false;
    seen = true;
    expected *= view.shape[dim];
  }
  return true;
}

} // namespace

bool fits(const ClassArray& a, const ClassLayout& layout, bool rows) {
  return rows ? layout.classes <= 1 || a.class_stride == 1
              : layout.positions <= 1 || a.position_stride == 1;
}

ClassLayout class_layout(const TensorView& view, int axis) {
  ClassLayout layout{1, view.ndim ? view.shape[axis] : 1, 1};
  for (int dim = 0; dim < axis; ++dim)
    layout.batches *= view.shape[dim];
  for (int dim = axis + 1; dim < view.ndim; ++dim)
    layout.positions *= view.shape[dim];
  return layout;
}

bool class_strides(const TensorView& view, int axis, ClassArray& out) {
  out.data = view.data;
  out.class_stride = view.ndim && view.shape[axis] > 1 ? view.strides[axis] : 1;
  return collapse(view, 0, axis, out.batch_stride) &&
         collapse(view, axis + 1, view.ndim, out.position_stride);
}

ClassOperand class_operand(const TensorView& view, int axis, const TensorView& model,
                           const MainOperand& main) {
  ClassOperand operand;
  operand.owner = view.array;
  if (class_strides(view, axis, operand.strides)) {
    operand.strides = swap_if(main.swapped, operand.strides);
    if (fits(operand.strides, main.layout, main.rows))
      return operand;
  }
  TensorView copy;
  operand.owner = make_array_like(model, view.dtype, copy);
  copy_elements(view, copy);
  class_strides(copy, axis, operand.strides);
  operand.strides = swap_if(main.swapped, operand.strides);
  return operand;
}

MainOperand main_operand(TensorView& view, int axis) {
  MainOperand main;
  main.layout = class_layout(view, axis);
  main.swapped = false;
  // A result cannot be laid out like a broadcast array.
  bool even = class_strides(view, axis, main.strides);
  for (int dim = 0; dim < view.ndim; ++dim)
    even = even && (view.shape[dim] <= 1 || view.strides[dim] != 0);
  if (even && main.layout.positions == 1 && main.layout.classes > 1 &&
      main.strides.class_stride != 1 && main.strides.batch_stride == 1)
    main.swapped = true;
  else if (!even || (!fits(main.strides, main.layout, true) &&
                     !(main.layout.positions > 1 && main.strides.position_stride == 1))) {
    view = contiguous_copy(view);
    class_strides(view, axis, main.strides);
  }
  if (main.swapped) {
    std::swap(main.layout.batches, main.layout.positions);
    main.strides = swap_if(true, main.strides);
  }
  main.rows = fits(main.strides, main.layout, true);
  return main;
}

} // namespace dlk
