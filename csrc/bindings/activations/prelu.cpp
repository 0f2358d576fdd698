// PReLU, forward and backward.
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "kernels/activations/args.h"
#include "runtime/threads.h"

#include <cstring>

namespace dlk {
namespace {

// Fills what forward and backward share; returns the weight, contiguous.
TensorView prelu_weight(PreluArgs& args, const TensorView& x, py::handle weight_object,
                        const char* operation) {
  TensorView weight = view_of(weight_object, operation, "weight");
  check_floating(x, operation, "input");
  check_same_dtype(weight, x, operation, "weight");
  const int64_t channels = x.ndim > 1 ? x.shape[1] : 1;
  DLK_CHECK(weight.size() == 1 || (weight.ndim == 1 && weight.shape[0] == channels), operation,
            ": weight: expected 1 element or one for each of ", channels, " channels, got shape ",
            shape_text(weight));
  args.dtype = x.dtype;
  args.size = x.size();
  args.channels = weight.size();
  make_contiguous(weight);
  args.weight = weight.data;
  return weight;
}

// The channels' place in the memory of an array without gaps.
void place_channels(PreluArgs& args, const TensorView& flat) {
  args.inner = args.channels == 1 ? args.size : flat.strides[1];
}

py::object prelu(py::handle x_object, py::handle weight_object, py::handle out) {
  constexpr const char* operation = "prelu";
  const TensorView x = view_of(x_object, operation, "input");
  PreluArgs args{};
  const TensorView weight = prelu_weight(args, x, weight_object, operation);
  ElementwiseOutput output(x, out, operation);
  if (args.size == 0)
    return output.finish();
  place_channels(args, *output.flat);
  args.input = output.input;
  args.output = output.flat->data;
  args.nontemporal = output.nontemporal;
  const Scratch<char> scratch(prelu_scratch_bytes(args, 0));
  args.scratch = scratch.data();
  without_gil(operation, args.size, [&] { runtime::kernels().prelu(args); });
  return output.finish();
}

// (dx, the gradient of the weight)
py::object prelu_backward(py::handle grad_object, py::handle x_object, py::handle weight_object) {
  constexpr const char* operation = "prelu_backward";
  const TensorView grad = view_of(grad_object, operation, "grad_output");
  const TensorView x = view_of(x_object, operation, "x");
  PreluArgs args{};
  const TensorView weight = prelu_weight(args, x, weight_object, operation);
  TensorView grad_weight;
  const ElementwiseGradient gradient(grad, x, operation);
  make_array(x, x.dtype, weight.ndim, weight.shape, nullptr, grad_weight);
  if (args.size == 0) {
    if (grad_weight.bytes())
      std::memset(grad_weight.data, 0, size_t(grad_weight.bytes()));
    return py::make_tuple(returned(gradient.dx.array), returned(grad_weight.array));
  }
  place_channels(args, gradient.x);
  args.input = gradient.x.data;
  args.grad_output = gradient.grad_output;
  args.output = gradient.dx.data;
  args.grad_weight = grad_weight.data;
  args.nontemporal = gradient.nontemporal;
  const Scratch<double> partials(prelu_partials(args));
  const Scratch<char> scratch(prelu_scratch_bytes(args, runtime::thread_count()));
  args.partials = partials.data();
  args.scratch = scratch.data();
  without_gil(operation, args.size, [&] { runtime::kernels().prelu_backward(args); });
  return py::make_tuple(returned(gradient.dx.array), returned(grad_weight.array));
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&prelu>(m, "prelu", "The input where it is positive, else its channel's slope times it.",
                   {"input", "weight", "out"}, 1);
  def_fast<&prelu_backward>(m, "prelu_backward", "Gradients of prelu for its input and its weight.",
                            {"grad_output", "input", "weight"});
}

} // namespace dlk
