// softmax and log_softmax, forward and backward.
#include "bindings/arrays/class_layout.h"
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "kernels/class_losses/args.h"
#include "runtime/threads.h"

namespace dlk {
namespace {

// Runs `kernel` with `view` as its output, through a temporary where the strides do not fit.
template <class Kernel>
void with_fitting_output(const char* operation, const TensorView& view, int axis,
                         const TensorView& model, const MainOperand& main, SoftmaxArgs& args,
                         Kernel kernel) {
  TensorView target = view, temporary;
  ClassArray strides;
  const bool direct = class_strides(view, axis, strides) &&
                      fits(swap_if(main.swapped, strides), main.layout, main.rows);
  if (!direct) {
    make_array_like(model, view.dtype, temporary);
    class_strides(temporary, axis, strides);
  }
  args.output = swap_if(main.swapped, strides);
  args.nontemporal = args.output.data != args.input.data && writes_past_cache(view.bytes());
  without_gil(operation, view.size(), [&] {
    kernel(args);
    if (!direct)
      copy_elements(temporary, target);
  });
}

SoftmaxArgs softmax_args(const MainOperand& main, DType dtype, bool logarithm) {
  SoftmaxArgs args{};
  args.dtype = dtype;
  args.logarithm = logarithm;
  args.rows = main.rows;
  set_sizes(args, main.layout);
  args.input = main.strides;
  return args;
}

py::object softmax(py::handle x, int64_t axis_argument, bool logarithm, py::handle out) {
  const char* operation = logarithm ? "log_softmax" : "softmax";
  TensorView input = view_of(x, operation, "input");
  check_floating(input, operation, "input");
  const int axis = wrapped_axis(axis_argument, input.ndim);
  const Output output(out, operation, input, {{&input, "input"}});
  MainOperand main = main_operand(input, axis);
  SoftmaxArgs args = softmax_args(main, input.dtype, logarithm);
  args.scratch_bytes_per_thread = main.rows ? row_scratch_bytes(args.classes, args.dtype)
                                            : plane_scratch_bytes(args.classes, args.dtype);
  const Scratch<char> scratch(args.scratch_bytes_per_thread * runtime::thread_count());
  args.scratch = scratch.data();
  with_fitting_output(operation, output.view, axis, input, main, args, runtime::kernels().softmax);
  return output.result();
}

py::object softmax_backward(py::handle grad_output, py::handle forward_output,
                            int64_t axis_argument, bool logarithm, py::handle out) {
  const char* operation = logarithm ? "log_softmax_backward" : "softmax_backward";
  TensorView input = view_of(forward_output, operation, "output");
  check_floating(input, operation, "output");
  const TensorView grad = view_of(grad_output, operation, "grad_output");
  check_like(grad, input, operation, "grad_output");
  const int axis = wrapped_axis(axis_argument, input.ndim);
  const Output output(out, operation, input, {{&input, "output"}, {&grad, "grad_output"}});
  MainOperand main = main_operand(input, axis);
  SoftmaxArgs args = softmax_args(main, input.dtype, logarithm);
  ClassOperand grad_operand = class_operand(grad, axis, input, main);
  args.grad_output = grad_operand.strides;
  with_fitting_output(operation, output.view, axis, input, main, args,
                      runtime::kernels().softmax_backward);
  return output.result();
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&softmax>(
      m, "softmax", "softmax or log_softmax along an axis.", {"input", "axis", "logarithm", "out"},
      0, [](PyObject* const* args) { return args[2] == Py_True ? "log_softmax" : "softmax"; });
  def_fast<&softmax_backward>(
      m, "softmax_backward", "Gradient of softmax or log_softmax, from its result.",
      {"grad_output", "output", "axis", "logarithm", "out"}, 0, [](PyObject* const* args) {
        return args[3] == Py_True ? "log_softmax_backward" : "softmax_backward";
      });
}

} // namespace dlk
