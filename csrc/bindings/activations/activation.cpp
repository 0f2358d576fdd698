// The elementwise activations by index, forward and backward.
#include "bindings/activations/activation_parameters.h"
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "kernels/activations/args.h"
#include "kernels/activations/list.h"

namespace dlk {
namespace {

constexpr const char* kNames[] = {
#define DLK_ACTIVATION(name, Functor, saved) #name,
    DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
};
constexpr const char* kBackwardNames[] = {
#define DLK_ACTIVATION(name, Functor, saved) #name "_backward",
    DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
};
constexpr Saved kSaved[] = {
#define DLK_ACTIVATION(name, Functor, saved) Saved::saved,
    DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
};
constexpr int kCount = sizeof(kNames) / sizeof(kNames[0]);

const char* name_of(int index, const char* const* names = kNames) {
  DLK_CHECK(index >= 0 && index < kCount, "activation: no activation of index ", index);
  return names[index];
}

void check_masked(int index, const char* operation) {
  DLK_CHECK(kSaved[index] == Saved::mask, operation, ": mask: expected none, since backward needs ",
            kSaved[index] == Saved::input ? "the input" : "the output");
}

void run(const char* operation, ActivationArgs& args, void (*kernel)(ActivationArgs&) noexcept) {
  without_gil(operation, args.size, [&] { kernel(args); });
}

void set_parameters(ActivationArgs& args, const char* operation, py::handle first,
                    py::handle second) {
  const char* activation = kNames[args.activation];
  args.parameters[0] = activation_parameter(first, 0, operation, activation);
  args.parameters[1] = activation_parameter(second, 1, operation, activation);
  check_parameters(args.parameters, args.dtype, operation, activation);
}

// y = activation(x); with_mask: (y, mask), the mask in the memory order of y.
py::object activation(int index, py::handle x_object, py::handle out, bool with_mask,
                      py::handle first_parameter, py::handle second_parameter) {
  const char* operation = name_of(index);
  if (with_mask)
    check_masked(index, operation);
  TensorView x = view_of(x_object, operation, "input");
  check_floating(x, operation, "input");
  ActivationArgs args{};
  args.dtype = x.dtype;
  args.activation = index;
  args.size = x.size();
  set_parameters(args, operation, first_parameter, second_parameter);

  ElementwiseOutput output(x, out, operation);
  args.input = output.input;
  args.output = output.flat->data;
  args.nontemporal = output.nontemporal;
  TensorView mask_view;
  py::object mask;
  if (with_mask) {
    const int64_t shape[1] = {mask_bytes(args.size)};
    mask = make_array(x, DType::uint8, 1, shape, nullptr, mask_view);
    args.mask = static_cast<uint8_t*>(mask_view.data);
  }
  run(operation, args, runtime::kernels().activation);
  const py::object result = output.finish();
  return with_mask ? py::object(py::make_tuple(result, mask)) : result;
}

// dx, from grad_output and either `saved` (what the activation saves, of the input's shape) or a
// mask made by activation() on an array that lay in memory as grad_output does.
py::object activation_backward(int index, py::handle grad_object, py::handle saved_object,
                               py::handle mask_object, py::handle first_parameter,
                               py::handle second_parameter) {
  const char* operation = name_of(index, kBackwardNames);
  TensorView grad = view_of(grad_object, operation, "grad_output");
  check_floating(grad, operation, "grad_output");
  ActivationArgs args{};
  args.dtype = grad.dtype;
  args.activation = index;
  args.size = grad.size();
  set_parameters(args, operation, first_parameter, second_parameter);
  if (!mask_object.is_none()) {
    check_masked(index, operation);
    const TensorView mask = mask_view_of(mask_object, operation, "mask", mask_bytes(args.size));
    DLK_CHECK(grad.dense(), operation,
              ": grad_output: expected no gaps, since a mask goes with it");
    TensorView dx;
    make_array_like(grad, grad.dtype, dx);
    args.mask = static_cast<uint8_t*>(mask.data);
    args.grad_output = grad.data;
    args.output = dx.data;
    args.nontemporal = writes_past_cache(dx.bytes());
    run(operation, args, runtime::kernels().activation_backward);
    return returned(dx.array);
  }
  const TensorView saved =
      view_of(saved_object, operation, kSaved[index] == Saved::output ? "output" : "x");
  const ElementwiseGradient gradient(grad, saved, operation);
  args.grad_output = gradient.grad_output;
  args.saved = gradient.x.data;
  args.output = gradient.dx.data;
  args.nontemporal = gradient.nontemporal;
  run(operation, args, runtime::kernels().activation_backward);
  return returned(gradient.dx.array);
}

int activation_index(const std::string& name) {
  for (int index = 0; index < kCount; ++index)
    if (name == kNames[index])
      return index;
  throw py::key_error("no activation named " + name);
}

const char* activation_saves(int index) {
  name_of(index);
  constexpr const char* kSavedNames[] = {"input", "output", "mask"};
  return kSavedNames[int(kSaved[index])];
}

} // namespace

DLK_BINDINGS(m) {
  m.def("activation_index", &activation_index, "The number of an activation's kernel.");
  m.def("activation_saves", &activation_saves,
        "What an activation's backward reads: 'input', 'output' or 'mask'.");
  def_fast<&activation>(
      m, "activation",
      "An activation by its kernel's number, and on request a bit an element for backward.",
      {"index", "input", "out", "with_mask", "first", "second"});
  def_fast<&activation_backward>(m, "activation_backward",
                                 "Gradient of an activation, from its input, output or mask.",
                                 {"index", "grad_output", "saved", "mask", "first", "second"});
}

} // namespace dlk
