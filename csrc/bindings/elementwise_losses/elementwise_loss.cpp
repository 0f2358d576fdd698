// The elementwise losses by index, forward and backward.
#include "bindings/bind.h"
#include "bindings/elementwise_losses/loss_call.h"
#include "bindings/fast_call.h"
#include "kernels/elementwise_losses/list.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace dlk {
namespace {

// The loss at one index. Without `wrt` the loss; with it (bits: input, target, third) a tuple of
// the loss and of three gradients or None, the gradient of the sum under "none". With grad_output
// (a number, or an array of each loss's) the gradients are multiplied by it and the loss is None.
// With an axis the losses are summed along it, and grad_output belongs to the sums.
py::object elementwise_loss(int index, double a, double b, py::handle input, py::handle target,
                            py::handle third, py::handle fourth, py::handle reduction,
                            std::optional<int64_t> axis_argument, int wrt, py::handle out,
                            py::handle grad_output) {
  LossCall call(index, input, target, third, fourth, a, b, reduction);
  LossArgs& args = call.args;
  const bool is_backward = !grad_output.is_none();
  std::optional<int> axis;
  TensorView grad_view;
  if (axis_argument) {
    const int ndim = std::max(call.input.ndim, call.target.ndim);
    axis = wrapped_axis(*axis_argument, ndim);
    DLK_CHECK(ndim > 0, call.row.name, ": input: expected 1 or more dimensions, got 0");
  }
  double grad_scale = 1;
  if (is_backward && PyFloat_Check(grad_output.ptr())) {
    grad_scale = PyFloat_AS_DOUBLE(grad_output.ptr());
  } else if (is_backward) {
    grad_view = view_of(grad_output, call.row.name, "grad_output");
    if (axis)
      insert_dimension(grad_view, *axis);
    call.layout->take(kLossGradOutput, grad_view, "grad_output");
  }
  call.layout->settle(axis.value_or(-1));
  if (is_backward && grad_view.array) {
    bool fits = grad_view.ndim == call.layout->ndim();
    for (int dim = 0; dim < grad_view.ndim && fits; ++dim)
      fits = (axis && dim == *axis) || grad_view.shape[dim] == call.layout->shape()[dim];
    DLK_CHECK(fits, call.row.name, ": grad_output: expected one value per loss (",
              shape_text(call.layout->ndim(), call.layout->shape()), "), got ",
              shape_text(grad_view));
  }
  call.find_divisor();
  if (wrt == 0) {
    if (!axis)
      return call.forward();
    call.layout->join();
    return call.lines(*axis);
  }

  // A weighted mean moves with each weight by that weight's loss less the mean.
  const bool needs_mean = (wrt & 4) && call.reduction == Reduction::mean &&
                          (call.row.shapes & kWeightedMean) && call.has_third;
  if (needs_mean) {
    call.layout->join();
    if (args.size)
      run_with_partials(args, runtime::kernels().elementwise_loss);
    args.third_offset = args.loss_sum / call.divisor;
  }
  args.scale *= grad_scale;
  args.with_value = !is_backward;
  TensorView sums;
  py::object loss = py::none();
  if (!is_backward && !axis && call.reduction == Reduction::none)
    loss = call.layout->result(kEachLoss);
  if (axis && !is_backward) {
    loss = call.make_line_sums(*axis, sums);
    args.lines = true;
    args.line_sums = sums.data;
    args.sums_dtype = sums.dtype;
    if (call.layout->size() == 0 && sums.size() != 0)
      std::memset(sums.data, 0, size_t(sums.bytes()));
  }
  const py::tuple gradients = call.gradients(wrt, out);
  if (!is_backward && loss.is_none())
    loss = make_scalar(call.input, args.dtype, args.loss_sum / call.divisor);
  else if (!is_backward)
    loss = returned(loss);
  return py::make_tuple(loss, gradients[0], gradients[1], gradients[2]);
}

} // namespace

DLK_BINDINGS(m) {
  m.def("elementwise_loss_index", &loss_index, "The number of a loss's kernel.");
  def_fast<&elementwise_loss>(
      m, "elementwise_loss", "An elementwise loss, or its gradients, by its kernel's number.",
      {"index", "a", "b", "input", "target", "weight", "pos_weight", "reduction", "axis", "wrt",
       "out", "grad_output"},
      0, [](PyObject* const* args) {
        return loss_row(int(as_integer(args[0], "elementwise_loss", "index", 0, loss_count() - 1)))
            .name;
      });
}

} // namespace dlk
