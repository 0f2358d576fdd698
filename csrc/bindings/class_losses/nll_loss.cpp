// nll_loss, forward and backward. Texts and exception types follow torch.
#include "bindings/bind.h"
#include "bindings/class_losses/target_operands.h"
#include "bindings/fast_call.h"
#include "bindings/reduction.h"

namespace dlk {
namespace {

// What forward and backward share: the operands, checked, and the kernel's arguments of them.
struct NllLossCall {
  const char* operation;
  Reduction reduction;
  TensorView input;
  int axis;
  ClassLayout layout;
  WeightOperand weight;
  IndexOperand indices;
  double weight_sum; // of the targets that count
  NllLossArgs args{};

  NllLossCall(const char* name, py::handle log_probabilities, py::handle target_object,
              py::handle weight_object, int64_t ignore_index, py::handle reduction_text)
      : operation(name), reduction(reduction_of(reduction_text)),
        input(view_of(log_probabilities, name, "input")), axis(class_axis(input, name)) {
    check_floating(input, operation, "input");
    TensorView target = view_of(target_object, operation, "target");
    check_index_shape(input, target);
    layout = class_layout(input, axis);
    weight = weight_operand(weight_object, input, layout.classes, operation);
    indices = index_operand(target, false);
    weight_sum =
        checked_targets(indices, layout, ignore_index, weight.data, input.dtype).weight_sum;
    args.dtype = input.dtype;
    set_sizes(args, layout);
    args.target = indices.indices;
    args.weight = weight.data;
    args.ignore_index = ignore_index;
  }

  int64_t rows() const { return layout.batches * layout.positions; }
};

py::object nll_loss(py::handle log_probabilities, py::handle target, py::handle weight,
                    int64_t ignore_index, py::handle reduction) {
  NllLossCall call("nll_loss", log_probabilities, target, weight, ignore_index, reduction);
  NllLossArgs& args = call.args;
  if (!class_strides(call.input, call.axis, args.log_probabilities)) {
    call.input = contiguous_copy(call.input);
    class_strides(call.input, call.axis, args.log_probabilities);
  }
  const Scratch<double> partials(chunk_count(call.rows(), kNllChunkRows));
  args.loss_partials = partials.data();
  TensorView loss_view;
  py::object loss;
  if (call.reduction == Reduction::none) {
    loss = make_rows(call.input, call.axis, args.dtype, loss_view);
    args.row_loss = loss_view.data;
  }
  without_gil(call.operation, call.rows(), [&] { runtime::kernels().nll_loss(args); });
  if (call.reduction == Reduction::none)
    return returned(loss);
  return make_scalar(call.input, args.dtype,
                     call.reduction == Reduction::mean ? args.loss_sum / call.weight_sum
                                                       : args.loss_sum);
}

py::object nll_loss_backward(py::handle grad_output, py::handle log_probabilities,
                             py::handle target, py::handle weight, int64_t ignore_index,
                             py::handle reduction) {
  NllLossCall call("nll_loss_backward", log_probabilities, target, weight, ignore_index, reduction);
  NllLossArgs& args = call.args;
  if (call.reduction == Reduction::mean)
    args.row_scale = 1 / call.weight_sum;
  const LossGradient loss_grad =
      loss_gradient(grad_output, call.input, call.rows(), call.operation);
  args.row_scale *= loss_grad.scalar;
  args.grad_output_rows = loss_grad.rows;
  // In the input's order of memory where that gives rows or planes, else row-major.
  const TensorView& input = call.input;
  TensorView result;
  py::object grad = make_array_like(input, input.dtype, result);
  ClassArray strides;
  if (!class_strides(result, call.axis, strides) ||
      (strides.class_stride != 1 && args.positions > 1 && strides.position_stride != 1) ||
      (strides.class_stride != 1 && args.positions == 1)) {
    grad = make_array(input, input.dtype, input.ndim, input.shape, nullptr, result);
    class_strides(result, call.axis, strides);
  }
  args.grad_input = strides;
  without_gil(call.operation, result.size(), [&] { runtime::kernels().nll_loss_backward(args); });
  return grad;
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&nll_loss>(m, "nll_loss", "Negative log-likelihood of log-probabilities.",
                      {"input", "target", "weight", "ignore_index", "reduction"});
  def_fast<&nll_loss_backward>(
      m, "nll_loss_backward", "Gradient of nll_loss.",
      {"grad_output", "input", "target", "weight", "ignore_index", "reduction"});
}

} // namespace dlk
