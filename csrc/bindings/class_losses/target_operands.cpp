#include "bindings/class_losses/target_operands.h"

namespace dlk {

int class_axis(const TensorView& logits, const char* operation) {
  DLK_CHECK(logits.ndim > 0, operation, ": input: expected 1 or more dimensions (got 0)");
  return logits.ndim == 1 ? 0 : 1;
}

void check_index_shape(const TensorView& logits, const TensorView& target) {
  if (logits.ndim == 1) {
    DLK_CHECK(target.ndim == 0, "Expected target size [], got ",
              size_text(target.ndim, target.shape));
    return;
  }
  DLK_CHECK(target.ndim > 0 && logits.shape[0] == target.shape[0], "Expected input batch_size (",
            logits.shape[0], ") to match target batch_size (", target.ndim ? target.shape[0] : 0,
            ").");
  bool same = target.ndim == logits.ndim - 1;
  for (int dim = 2; same && dim < logits.ndim; ++dim)
    same = target.shape[dim - 1] == logits.shape[dim];
  if (same)
    return;
  int64_t expected[kMaxDims] = {logits.shape[0]};
  for (int dim = 2; dim < logits.ndim; ++dim)
    expected[dim - 1] = logits.shape[dim];
  throw std::invalid_argument(text("Expected target size ", size_text(logits.ndim - 1, expected),
                                   ", got ", size_text(target.ndim, target.shape)));
}

IndexOperand index_operand(TensorView& target, bool swapped) {
  DLK_CHECK_TYPE(target.dtype > DType::bool8, "target: expected an integer dtype, got ",
                 dtype_name(target.dtype));
  IndexOperand operand;
  ClassArray strides;
  // (N, d1, ...): the batch is what lies before a class axis that is not there
  const auto set_strides = [&](const TensorView& view) {
    TensorView with_axis;
    with_axis.data = view.data;
    with_axis.ndim = view.ndim + 1;
    const int axis = view.ndim ? 1 : 0;
    for (int dim = 0, from = 0; dim < with_axis.ndim; ++dim) {
      with_axis.shape[dim] = dim == axis ? 1 : view.shape[from];
      with_axis.strides[dim] = dim == axis ? 0 : view.strides[from];
      from += dim != axis;
    }
    return class_strides(with_axis, axis, strides);
  };
  if (!set_strides(target)) {
    target = contiguous_copy(target);
    set_strides(target);
  }
  strides = swap_if(swapped, strides);
  operand.owner = target.owner;
  operand.indices = {target.data, target.dtype, strides.batch_stride, strides.position_stride};
  return operand;
}

WeightOperand weight_operand(py::handle weight, const TensorView& logits, int64_t classes,
                             const char* operation) {
  if (weight.is_none())
    return {};
  TensorView view = view_of(weight, operation, "weight");
  DLK_CHECK(
      view.ndim == 1 && view.shape[0] == classes, operation,
      ": weight tensor should be defined either for all ", classes,
      " classes or no classes but got weight tensor of shape: ", size_text(view.ndim, view.shape));
  check_same_dtype(view, logits, operation, "weight");
  make_contiguous(view);
  return {view.data, view.owner};
}

ClassTargetsArgs checked_targets(const IndexOperand& target, const ClassLayout& layout,
                                 int64_t ignore_index, const void* weight, DType dtype) {
  ClassTargetsArgs args{};
  args.target = target.indices;
  set_sizes(args, layout);
  args.ignore_index = ignore_index;
  args.weight = weight;
  args.weight_dtype = dtype;
  without_gil("class_targets", layout.batches * layout.positions,
              [&] { runtime::kernels().class_targets(args); });
  DLK_CHECK_INDEX(!args.out_of_bounds, "Target ",
                  args.target.dtype == DType::uint64
                      ? std::to_string(static_cast<uint64_t>(args.bad_target))
                      : std::to_string(args.bad_target),
                  " is out of bounds.");
  return args;
}

py::object make_rows(const TensorView& logits, int axis, DType dtype, TensorView& view) {
  int64_t shape[kMaxDims];
  int ndim = 0;
  for (int dim = 0; dim < logits.ndim; ++dim)
    if (dim != axis)
      shape[ndim++] = logits.shape[dim];
  return make_array(logits, dtype, ndim, shape, nullptr, view);
}

LossGradient loss_gradient(py::handle grad_output, const TensorView& input, int64_t rows,
                           const char* operation) {
  LossGradient grad;
  if (PyFloat_Check(grad_output.ptr())) {
    grad.scalar = PyFloat_AS_DOUBLE(grad_output.ptr());
    return grad;
  }
  TensorView view = view_of(grad_output, operation, "grad_output");
  check_same_dtype(view, input, operation, "grad_output");
  DLK_CHECK(view.size() == rows, operation, ": grad_output: expected one value per target (", rows,
            "), got shape ", shape_text(view));
  make_contiguous(view);
  grad.rows = view.data;
  grad.owner = view.owner;
  return grad;
}

} // namespace dlk
