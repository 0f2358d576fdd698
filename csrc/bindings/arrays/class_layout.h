// Arrays of (batch, class, position): the shape every operation along one axis is brought to, and
// the choice between the kernels that walk rows (classes side by side) and planes (positions side
// by side).
#pragma once

#include "bindings/arrays/tensor.h"
#include "core/strided.h"

namespace dlk {

// Sizes of an array seen around `axis`: what is before it, along it, behind it.
struct ClassLayout {
  int64_t batches, classes, positions;
};

ClassLayout class_layout(const TensorView& view, int axis);

// `view` as strides over that layout. Returns false where the dimensions before or behind the axis
// do not lie evenly, so that one stride each cannot walk them.
bool class_strides(const TensorView& view, int axis, ClassArray& out);

// Can the kernel that walks rows (or planes) walk these strides?
bool fits(const ClassArray& a, const ClassLayout& layout, bool rows);

// Brings the main operand to rows or planes, copying it once where it is neither; `view` becomes
// what the kernel reads. Column-major matrices become planes by taking the batch as positions.
struct MainOperand {
  ClassLayout layout;
  ClassArray strides;
  bool rows;
  bool swapped; // the batch became the positions
  py::object owner;
};
MainOperand main_operand(TensorView& view, int axis);

// Applies main_operand's swap to another array of the same layout.
inline ClassArray swap_if(bool swapped, ClassArray a) {
  if (swapped)
    std::swap(a.batch_stride, a.position_stride);
  return a;
}

// Another array of the same shape, as the kernel chosen for `main` can walk it: as it lies (`owner`
// is the array itself), or copied into the memory order of `model`.
struct ClassOperand {
  ClassArray strides;
  py::object owner;
};
ClassOperand class_operand(const TensorView& view, int axis, const TensorView& model,
                           const MainOperand& main);

} // namespace dlk
