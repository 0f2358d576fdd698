// glu, and swiglu of one array: units gated by the other half along an axis.
#include "bindings/activations/axis_split.h"
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "kernels/activations/args.h"

namespace dlk {
namespace {

void* offset(void* data, int64_t elems, DType dtype) {
  return static_cast<char*>(data) + elems * item_size(dtype);
}

const char* gated_name(bool silu, bool is_backward) {
  return silu ? (is_backward ? "swiglu_backward" : "swiglu")
              : (is_backward ? "glu_backward" : "glu");
}

// glu's value is the first half, swiglu's the second.
void place_halves(GatedArgs& args, const AxisSplit& x, const char* operation) {
  DLK_CHECK(x.length % 2 == 0, operation, ": input: expected an even length along axis ", x.axis,
            ", got ", x.length);
  args.dtype = x.view.dtype;
  args.rows = x.outer;
  args.cols = x.length / 2 * x.inner;
  args.value_stride = args.gate_stride = 2 * args.cols;
  args.value = offset(x.view.data, args.silu ? args.cols : 0, args.dtype);
  args.gate = offset(x.view.data, args.silu ? 0 : args.cols, args.dtype);
}

// y of the two halves of x along an axis.
py::object gated_halves(py::handle x_object, int axis, bool silu) {
  const char* operation = gated_name(silu, false);
  const AxisSplit x(x_object, axis, operation, "input");
  GatedArgs args{};
  args.silu = silu;
  place_halves(args, x, operation);
  TensorView y;
  py::object result = x.make(x.length / 2, y);
  args.output = y.data;
  args.nontemporal = writes_past_cache(y.bytes());
  without_gil(operation, y.size(), [&] { runtime::kernels().gated(args); });
  return result;
}

py::object gated_halves_backward(py::handle grad_object, py::handle x_object, int axis, bool silu) {
  const char* operation = gated_name(silu, true);
  const AxisSplit x(x_object, axis, operation, "x");
  const AxisSplit grad(grad_object, axis, operation, "grad_output");
  GatedArgs args{};
  args.silu = silu;
  place_halves(args, x, operation);
  check_same_dtype(grad.view, x.view, operation, "grad_output");
  DLK_CHECK(grad.view.ndim == x.view.ndim && grad.length == x.length / 2 && grad.outer == x.outer &&
                grad.inner == x.inner,
            operation, ": grad_output: expected the shape of the result, got ",
            shape_text(grad.view));
  TensorView dx;
  py::object result = x.make(x.length, dx);
  args.grad_output = grad.view.data;
  args.grad_stride = args.cols;
  args.grad_value_stride = args.grad_gate_stride = 2 * args.cols;
  args.grad_value = offset(dx.data, silu ? args.cols : 0, args.dtype);
  args.grad_gate = offset(dx.data, silu ? 0 : args.cols, args.dtype);
  args.nontemporal = writes_past_cache(dx.bytes());
  without_gil(operation, dx.size(), [&] { runtime::kernels().gated_backward(args); });
  return result;
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&gated_halves>(
      m, "gated_halves",
      "One half of an array times the sigmoid (glu) or silu (swiglu) of the other.",
      {"input", "axis", "silu"}, 0,
      [](PyObject* const* args) { return gated_name(args[2] == Py_True, false); });
  def_fast<&gated_halves_backward>(
      m, "gated_halves_backward", "Gradient of gated_halves.",
      {"grad_output", "input", "axis", "silu"}, 0,
      [](PyObject* const* args) { return gated_name(args[3] == Py_True, true); });
}

} // namespace dlk
