// The operands that losses over class targets share, checked; texts and error types are torch's.
#pragma once

#include "bindings/arrays/class_layout.h"
#include "bindings/call.h"
#include "kernels/class_losses/args.h"

namespace dlk {

// The axis of the classes: 1, or 0 for an unbatched vector.
int class_axis(const TensorView& logits, const char* operation);

// Raises unless `target` has the shape of class indices for (C,), (N, C) or (N, C, d1, ...).
void check_index_shape(const TensorView& logits, const TensorView& target);

// Class indices as the kernels read them, with what keeps them alive. `target` becomes a copy where
// its strides do not fit.
struct IndexOperand {
  ClassIndices indices;
  py::object owner;
};
IndexOperand index_operand(TensorView& target, bool swapped);

// A vector of class weights, contiguous.
struct WeightOperand {
  const void* data = nullptr;
  py::object owner;
};
WeightOperand weight_operand(py::handle weight, const TensorView& logits, int64_t classes,
                             const char* operation);

// Raises for the first target out of range; the divisor of a mean otherwise.
ClassTargetsArgs checked_targets(const IndexOperand& target, const ClassLayout& layout,
                                 int64_t ignore_index, const void* weight, DType dtype);

// An array for each row's value: the logits' shape without the class axis.
py::object make_rows(const TensorView& logits, int axis, DType dtype, TensorView& view);

// The gradient that arrives at a loss: a number, or one value of the input's dtype per row.
struct LossGradient {
  double scalar = 1;
  const void* rows = nullptr;
  py::object owner;
};
LossGradient loss_gradient(py::handle grad_output, const TensorView& input, int64_t rows,
                           const char* operation);

} // namespace dlk
