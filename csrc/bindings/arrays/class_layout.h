// Arrays of (batch, class, position): the shape that every operation along one axis is seen
// as, and the choice between the kernels for rows (classes side by side) and for planes (positions
// side by side).
#pragma once

#include "bindings/arrays/tensor.h"
#include "core/strided.h"

namespace dlk {

// Sizes of an array seen around `axis`: what is before it, along it, behind it.
struct ClassLayout {
  int64_t batches, classes, positions;
};

ClassLayout class_layout(const TensorView& view, int axis);

// The sizes as a kernel's arguments.
template <class Args> void set_sizes(Args& args, const ClassLayout& layout) {
  args.batches = layout.batches;
  args.classes = layout.classes;
  args.positions = layout.positions;
}

// `view` as strides over that layout. Returns false where the dimensions before the axis, or those
// behind it, cannot be joined into one with one stride.
bool class_strides(const TensorView& view, int axis, ClassArray& out);

// Whether the kernel for rows (or planes) can take these strides.
bool fits(const ClassArray& a, const ClassLayout& layout, bool rows);

// Sees the main operand as rows or planes, copying it once where it is neither; `view` becomes
// what the kernel reads. Column-major matrices become planes by taking the batch as positions.
struct MainOperand {
  ClassLayout layout;
  ClassArray strides;
  bool rows;
  bool swapped; // the batch became the positions
};
MainOperand main_operand(TensorView& view, int axis);

// Applies main_operand's swap to another array of the same layout.
inline ClassArray swap_if(bool swapped, ClassArray a) {
  if (swapped)
    std::swap(a.batch_stride, a.position_stride);
  return a;
}

// Another array of the same shape, for the kernel that was chosen for `main`: in its own memory
// (`owner` is the array itself), or copied into the memory order of `model`.
struct ClassOperand {
  ClassArray strides;
  py::object owner;
};
ClassOperand class_operand(const TensorView& view, int axis, const TensorView& model,
                           const MainOperand& main);

} // namespace dlk
