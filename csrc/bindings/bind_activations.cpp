// Elementwise activations by index, forward and backward, and the bare functions of simd/math.h.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "kernels/activations.h"

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

// Bytes of a mask of one bit per element, in whole vectors.
int64_t mask_bytes(int64_t size) {
  return (size + 15) / 16 * 2;
}

bool same_strides(const TensorView& a, const TensorView& b) {
  for (int dim = 0; dim < a.ndim; ++dim)
    if (a.shape[dim] != 1 && a.strides[dim] != b.strides[dim])
      return false;
  return true;
}

const char* name_of(int index, const char* const* names = kNames) {
  DLK_CHECK(index >= 0 && index < kCount, "activation: no activation of index ", index);
  return names[index];
}

void check_masked(int index, const char* operation) {
  DLK_CHECK(kSaved[index] == Saved::mask, operation, ": mask: expected none, since backward needs ",
            kSaved[index] == Saved::input ? "the input" : "the output");
}

void run(ActivationArgs& args, void (*kernel)(ActivationArgs&) noexcept) {
  without_gil(args.size, [&] { kernel(args); });
}

// y = activation(x); with_mask: (y, mask), the mask in the memory order of y.
py::object activation(int index, py::handle x_object, py::handle out, bool with_mask,
                      double first_parameter, double second_parameter) {
  const char* operation = name_of(index);
  if (with_mask)
    check_masked(index, operation);
  TensorView x = view_of(x_object, operation, "input");
  check_floating(x, operation, "input");
  ActivationArgs args{};
  args.dtype = x.dtype;
  args.activation = index;
  args.size = x.size();
  args.parameters[0] = first_parameter;
  args.parameters[1] = second_parameter;

  // The kernel walks memory from end to end: input and output must lie alike and without gaps.
  // Where they do not, the input is copied into the output's order and the kernel works in place
  // there.
  TensorView y;
  py::object result, flat_owner;
  TensorView* flat = &y;
  TensorView temporary;
  if (out.is_none()) {
    result = make_array_like(x, x.dtype, y);
  } else {
    y = output_view_of(out, operation, "out");
    DLK_CHECK(same_shape(y, x), operation, ": out: expected shape ", shape_text(x), ", got ",
              shape_text(y));
    check_same_dtype(y, x, operation, "out");
    check_overlap(y, x, operation, "out", "input");
    result = py::reinterpret_borrow<py::object>(out);
    if (!y.dense()) {
      flat_owner = make_array_like(x, x.dtype, temporary);
      flat = &temporary;
    }
  }
  const bool direct = x.dense() && same_strides(x, *flat);
  if (!direct)
    copy_elements(x, *flat);
  args.input = direct ? x.data : flat->data;
  args.output = flat->data;
  args.nontemporal = args.input != args.output && writes_past_cache(x.bytes());
  TensorView mask_view;
  py::object mask;
  if (with_mask) {
    const int64_t shape[1] = {mask_bytes(args.size)};
    mask = make_array(x, DType::uint8, 1, shape, nullptr, mask_view);
    args.mask = static_cast<uint8_t*>(mask_view.data);
  }
  run(args, runtime::kernels().activation);
  if (flat != &y)
    copy_elements(temporary, y);
  return with_mask ? py::object(py::make_tuple(result, mask)) : result;
}

// dx, from grad_output and either `saved` (what the activation saves, of the input's shape) or a
// mask made by activation() on an array that lay in memory as grad_output does.
py::object activation_backward(int index, py::handle grad_object, py::handle saved_object,
                               py::handle mask_object, double first_parameter,
                               double second_parameter) {
  const char* operation = name_of(index, kBackwardNames);
  TensorView grad = view_of(grad_object, operation, "grad_output");
  check_floating(grad, operation, "grad_output");
  ActivationArgs args{};
  args.dtype = grad.dtype;
  args.activation = index;
  args.size = grad.size();
  args.parameters[0] = first_parameter;
  args.parameters[1] = second_parameter;
  TensorView saved, dx, copy;
  py::object result, copy_owner;
  if (!mask_object.is_none()) {
    check_masked(index, operation);
    saved = view_of(mask_object, operation, "mask");
    DLK_CHECK(saved.dtype == DType::uint8 && saved.ndim == 1 && saved.contiguous() &&
                  saved.size() == mask_bytes(args.size),
              operation, ": mask: expected ", mask_bytes(args.size), " contiguous uint8, got ",
              shape_text(saved), " ", dtype_name(saved.dtype));
    DLK_CHECK(grad.dense(), operation,
              ": grad_output: expected no gaps, since a mask goes with it");
    args.mask = static_cast<uint8_t*>(saved.data);
    result = make_array_like(grad, grad.dtype, dx);
    args.grad_output = grad.data;
  } else {
    saved = view_of(saved_object, operation, kSaved[index] == Saved::output ? "output" : "x");
    DLK_CHECK(same_shape(saved, grad), operation, ": grad_output: expected shape ",
              shape_text(saved), ", got ", shape_text(grad));
    check_same_dtype(grad, saved, operation, "grad_output");
    if (!saved.dense()) {
      copy_owner = make_array_like(saved, saved.dtype, copy);
      copy_elements(saved, copy);
      copy.array = saved.array;
      copy.kind = saved.kind;
      saved = copy;
    }
    result = make_array_like(saved, saved.dtype, dx);
    const bool direct = grad.dense() && same_strides(grad, saved);
    if (!direct)
      copy_elements(grad, dx);
    args.grad_output = direct ? grad.data : dx.data;
    args.saved = saved.data;
  }
  args.output = dx.data;
  args.nontemporal = args.grad_output != args.output && writes_past_cache(dx.bytes());
  run(args, runtime::kernels().activation_backward);
  return result;
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

py::object math_function(const std::string& name, py::handle x_object) {
  constexpr const char* names[] = {"exp", "exp_nonpositive", "log", "tanh", "exp_bounded"};
  MathFunctionArgs args{};
  args.function = -1;
  for (int index = 0; index < 5; ++index)
    if (name == names[index])
      args.function = index;
  DLK_CHECK(args.function >= 0, "math_function: no function named ", name);
  const TensorView x = view_of(x_object, "math_function", "input");
  DLK_CHECK_TYPE(x.dtype == DType::float32 || x.dtype == DType::float64,
                 "math_function: input: expected float32 or float64, got ", dtype_name(x.dtype));
  DLK_CHECK(x.contiguous(), "math_function: input: expected a contiguous array");
  TensorView y;
  py::object result = make_array_like(x, x.dtype, y);
  args.dtype = x.dtype;
  args.size = x.size();
  args.input = x.data;
  args.output = y.data;
  runtime::kernels().math_function(args);
  return result;
}

} // namespace

void bind_activations(py::module_& m) {
  m.def("activation_index", &activation_index);
  m.def("activation_saves", &activation_saves);
  m.def("activation", &activation);
  m.def("activation_backward", &activation_backward);
  m.def("math_function", &math_function);
}

} // namespace dlk
