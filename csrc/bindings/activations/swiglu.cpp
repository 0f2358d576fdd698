// swiglu of two arrays, gate and up.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/fast_call.h"
#include "kernels/activations/args.h"

namespace dlk {
namespace {

// An array as rows of its last dimension, `stride` elements apart: itself where it lies so (a half
// of a larger array does), else a copy.
struct Rows {
  TensorView view;
  int64_t stride;

  Rows(const TensorView& source, int64_t cols) : view(source), stride(cols) {
    bool fits = view.ndim > 0 && (cols == 1 || view.strides[view.ndim - 1] == 1);
    int64_t next = 0; // the stride of the next dimension outwards; those of size 1 do not count
    for (int dim = view.ndim - 2; fits && dim >= 0; --dim) {
      if (view.shape[dim] == 1)
        continue;
      if (next == 0)
        stride = view.strides[dim];
      fits = next == 0 ? stride >= cols : view.strides[dim] == next;
      next = view.strides[dim] * view.shape[dim];
    }
    if (fits)
      return;
    stride = cols;
    make_contiguous(view);
  }
};

void check_pair(const TensorView& gate, const TensorView& up, const char* operation) {
  check_floating(gate, operation, "gate");
  check_same_dtype(up, gate, operation, "up");
  DLK_CHECK(same_shape(up, gate), operation, ": up: expected shape ", shape_text(gate), ", got ",
            shape_text(up));
}

int64_t last_length(const TensorView& view) {
  return view.ndim ? view.shape[view.ndim - 1] : 1;
}

// silu(gate) * up
py::object swiglu(py::handle gate_object, py::handle up_object) {
  constexpr const char* operation = "swiglu";
  const TensorView gate_view = view_of(gate_object, operation, "gate");
  const TensorView up_view = view_of(up_object, operation, "up");
  check_pair(gate_view, up_view, operation);
  GatedArgs args{};
  args.silu = true;
  args.dtype = gate_view.dtype;
  TensorView y;
  make_array(gate_view, args.dtype, gate_view.ndim, gate_view.shape, nullptr, y);
  if (y.size() == 0)
    return y.array;
  args.cols = last_length(y);
  args.rows = y.size() / args.cols;
  const Rows gate(gate_view, args.cols), up(up_view, args.cols);
  args.gate = gate.view.data;
  args.gate_stride = gate.stride;
  args.value = up.view.data;
  args.value_stride = up.stride;
  args.output = y.data;
  args.nontemporal = writes_past_cache(y.bytes());
  without_gil(operation, y.size(), [&] { runtime::kernels().gated(args); });
  return returned(y.array);
}

// (the gradient of gate, that of up)
py::object swiglu_backward(py::handle grad_object, py::handle gate_object, py::handle up_object) {
  constexpr const char* operation = "swiglu_backward";
  const TensorView grad_view = view_of(grad_object, operation, "grad_output");
  const TensorView gate_view = view_of(gate_object, operation, "gate");
  const TensorView up_view = view_of(up_object, operation, "up");
  check_pair(gate_view, up_view, operation);
  check_same_dtype(grad_view, gate_view, operation, "grad_output");
  DLK_CHECK(same_shape(grad_view, gate_view), operation, ": grad_output: expected shape ",
            shape_text(gate_view), ", got ", shape_text(grad_view));
  GatedArgs args{};
  args.silu = true;
  args.dtype = gate_view.dtype;
  TensorView d_gate, d_up;
  const auto make = [&](TensorView& view) {
    return make_array(gate_view, args.dtype, gate_view.ndim, gate_view.shape, nullptr, view);
  };
  const py::object gate_result = make(d_gate), up_result = make(d_up);
  if (d_gate.size() == 0)
    return py::make_tuple(gate_result, up_result);
  args.cols = args.grad_value_stride = args.grad_gate_stride = last_length(d_gate);
  args.rows = d_gate.size() / args.cols;
  const Rows grad(grad_view, args.cols), gate(gate_view, args.cols), up(up_view, args.cols);
  args.grad_output = grad.view.data;
  args.grad_stride = grad.stride;
  args.gate = gate.view.data;
  args.gate_stride = gate.stride;
  args.value = up.view.data;
  args.value_stride = up.stride;
  args.grad_gate = d_gate.data;
  args.grad_value = d_up.data;
  args.nontemporal = writes_past_cache(d_gate.bytes());
  without_gil(operation, 2 * d_gate.size(), [&] { runtime::kernels().gated_backward(args); });
  return py::make_tuple(returned(gate_result), returned(up_result));
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&swiglu>(m, "swiglu", "silu(gate) * up.", {"gate", "up"});
  def_fast<&swiglu_backward>(m, "swiglu_backward", "Gradients of swiglu for gate and up.",
                             {"grad_output", "gate", "up"});
}

} // namespace dlk
