// Elementwise activations by index, the ones with more than one operand (prelu, glu, swiglu,
// maxout), all with their backwards, and the bare functions of simd/math.h.
#include "bindings/activation_parameters.h"
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/fast_call.h"
#include "kernels/activations/args.h"
#include "kernels/activations/list.h"
#include "kernels/common/args.h"
#include "runtime/pool.h"
#include "runtime/threads.h"

#include <algorithm>
#include <cstring>
#include <iterator>

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

// What an elementwise operation writes: a new array like x, or `out`. The kernels walk memory from
// end to end, so input and output must lie alike and without gaps; where they do not, the input is
// copied into the output's order and the kernel works in place there.
struct ElementwiseOutput {
  TensorView y, temporary;
  TensorView* flat = &y; // what the kernel writes
  const void* input;     // what it reads
  bool nontemporal;

  ElementwiseOutput(const TensorView& x, py::handle out, const char* operation) {
    if (out.is_none()) {
      make_array_like(x, x.dtype, y);
    } else {
      y = output_view_of(out, operation, "out");
      DLK_CHECK(same_shape(y, x), operation, ": out: expected shape ", shape_text(x), ", got ",
                shape_text(y));
      check_same_dtype(y, x, operation, "out");
      check_overlap(y, x, operation, "out", "input");
      result_ = py::reinterpret_borrow<py::object>(out);
      if (!y.dense()) {
        flat_owner_ = make_array_like(x, x.dtype, temporary);
        flat = &temporary;
      }
    }
    const bool direct = x.dense() && same_strides(x, *flat);
    if (!direct)
      copy_elements(x, *flat);
    input = direct ? x.data : flat->data;
    nontemporal = input != flat->data && writes_past_cache(x.bytes());
  }

  py::object finish() const {
    if (flat != &y)
      copy_elements(temporary, const_cast<TensorView&>(y));
    return result_ ? result_ : returned(y.array);
  }

private:
  py::object result_; // `out`, where it is given
  py::object flat_owner_;
};

// The same for a gradient: dx lies as x does, and grad_output is brought into that order.
struct ElementwiseGradient {
  TensorView x, dx;
  const void* grad_output;
  bool nontemporal;

  ElementwiseGradient(const TensorView& grad, const TensorView& saved, const char* operation)
      : x(saved) {
    DLK_CHECK(same_shape(x, grad), operation, ": grad_output: expected shape ", shape_text(x),
              ", got ", shape_text(grad));
    check_same_dtype(grad, x, operation, "grad_output");
    if (!x.dense()) {
      TensorView copy;
      copy_owner_ = make_array_like(x, x.dtype, copy);
      copy_elements(x, copy);
      copy.array = x.array;
      copy.kind = x.kind;
      x = copy;
    }
    make_array_like(x, x.dtype, dx);
    const bool direct = grad.dense() && same_strides(grad, x);
    if (!direct)
      copy_elements(grad, dx);
    grad_output = direct ? grad.data : dx.data;
    nontemporal = direct && writes_past_cache(dx.bytes());
  }

private:
  py::object copy_owner_;
};

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
    const TensorView mask = view_of(mask_object, operation, "mask");
    DLK_CHECK(mask.dtype == DType::uint8 && mask.ndim == 1 && mask.contiguous() &&
                  mask.size() == mask_bytes(args.size),
              operation, ": mask: expected ", mask_bytes(args.size), " contiguous uint8, got ",
              shape_text(mask), " ", dtype_name(mask.dtype));
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

// --- prelu

// Fills what forward and backward share; returns the owner of the weight, contiguous.
py::object prelu_args(PreluArgs& args, const TensorView& x, py::handle weight_object,
                      TensorView& weight, const char* operation) {
  weight = view_of(weight_object, operation, "weight");
  check_floating(x, operation, "input");
  check_same_dtype(weight, x, operation, "weight");
  const int64_t channels = x.ndim > 1 ? x.shape[1] : 1;
  DLK_CHECK(weight.size() == 1 || (weight.ndim == 1 && weight.shape[0] == channels), operation,
            ": weight: expected 1 element or one for each of ", channels, " channels, got shape ",
            shape_text(weight));
  args.dtype = x.dtype;
  args.size = x.size();
  args.channels = weight.size();
  py::object owner = weight.owner;
  args.weight = weight.data;
  if (!weight.contiguous()) {
    TensorView copy;
    owner = contiguous_copy(weight, copy);
    args.weight = copy.data;
  }
  return owner;
}

// The channels' place in the memory of an array without gaps.
void place_channels(PreluArgs& args, const TensorView& flat) {
  args.inner = args.channels == 1 ? args.size : flat.strides[1];
}

py::object prelu(py::handle x_object, py::handle weight_object, py::handle out) {
  constexpr const char* operation = "prelu";
  const TensorView x = view_of(x_object, operation, "input");
  PreluArgs args{};
  TensorView weight;
  const py::object weight_owner = prelu_args(args, x, weight_object, weight, operation);
  ElementwiseOutput output(x, out, operation);
  if (args.size == 0)
    return output.finish();
  place_channels(args, *output.flat);
  args.input = output.input;
  args.output = output.flat->data;
  args.nontemporal = output.nontemporal;
  const size_t bytes = size_t(prelu_scratch_bytes(args, 0));
  const runtime::ScopedBuffer scratch(bytes);
  args.scratch = allocated(scratch.data(), bytes);
  without_gil(operation, args.size, [&] { runtime::kernels().prelu(args); });
  return output.finish();
}

// (dx, the gradient of the weight)
py::object prelu_backward(py::handle grad_object, py::handle x_object, py::handle weight_object) {
  constexpr const char* operation = "prelu_backward";
  const TensorView grad = view_of(grad_object, operation, "grad_output");
  const TensorView x = view_of(x_object, operation, "x");
  PreluArgs args{};
  TensorView weight, grad_weight;
  const py::object weight_owner = prelu_args(args, x, weight_object, weight, operation);
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
  const size_t partial_bytes = size_t(prelu_partials(args)) * sizeof(double);
  const size_t scratch_bytes = size_t(prelu_scratch_bytes(args, runtime::thread_count()));
  const runtime::ScopedBuffer partials(partial_bytes), scratch(scratch_bytes);
  args.partials = static_cast<double*>(allocated(partials.data(), partial_bytes));
  args.scratch = allocated(scratch.data(), scratch_bytes);
  without_gil(operation, args.size, [&] { runtime::kernels().prelu_backward(args); });
  return py::make_tuple(returned(gradient.dx.array), returned(grad_weight.array));
}

// --- glu, swiglu, maxout

// A row-major array seen as (outer, axis, inner).
struct AxisSplit {
  TensorView view; // the array, or a row-major copy
  int axis;
  int64_t outer = 1, length, inner = 1;

  AxisSplit(py::handle object, int given_axis, const char* operation, const char* argument)
      : view(view_of(object, operation, argument)), axis(given_axis) {
    check_floating(view, operation, argument);
    if (axis < 0)
      axis += view.ndim;
    if (axis < 0 || axis >= view.ndim)
      throw py::index_error(text(operation, ": axis ", given_axis, " is out of range for an array ",
                                 "of ", view.ndim, " dimensions"));
    for (int dim = 0; dim < view.ndim; ++dim)
      (dim < axis ? outer : inner) *= dim == axis ? 1 : view.shape[dim];
    length = view.shape[axis];
    if (!view.contiguous()) {
      TensorView copy;
      owner_ = contiguous_copy(view, copy);
      view = copy;
    }
  }

  // A new array of this shape but for the axis.
  py::object make(int64_t axis_length, TensorView& result) const {
    int64_t shape[kMaxDims];
    std::copy_n(view.shape, view.ndim, shape);
    shape[axis] = axis_length;
    return make_array(view, view.dtype, view.ndim, shape, nullptr, result);
  }

private:
  py::object owner_;
};

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

// An array as rows of its last dimension, `stride` elements apart: itself where it lies so (a half
// of a larger array does), else a copy.
struct Rows {
  TensorView view;
  int64_t stride;

  Rows(const TensorView& source, int64_t cols) : view(source), stride(cols) {
    bool fits = view.ndim > 0 && (cols == 1 || view.strides[view.ndim - 1] == 1);
    int64_t next = 0; // the stride of the next dimension outwards; those of size 1 say nothing
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
    if (view.contiguous())
      return;
    TensorView copy;
    owner_ = contiguous_copy(source, copy);
    view = copy;
  }

private:
  py::object owner_;
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

constexpr int64_t kMaxPieces = 256;

MaxoutArgs maxout_args(const AxisSplit& split, int64_t pieces, int64_t length,
                       const char* operation) {
  DLK_CHECK(pieces >= 1 && pieces <= kMaxPieces, operation, ": pieces: expected 1 to ", kMaxPieces,
            ", got ", pieces);
  MaxoutArgs args{};
  args.dtype = split.view.dtype;
  args.pieces = pieces;
  args.interleaved = split.inner == 1;
  args.rows = args.interleaved ? 1 : split.outer * length;
  args.cols = args.interleaved ? split.outer * length : split.inner;
  return args;
}

// y, or (y, the winners' numbers in bits)
py::object maxout(py::handle x_object, int64_t pieces, int axis, bool with_index) {
  constexpr const char* operation = "maxout";
  const AxisSplit x(x_object, axis, operation, "input");
  MaxoutArgs args = maxout_args(x, pieces, x.length / std::max<int64_t>(pieces, 1), operation);
  DLK_CHECK(x.length % pieces == 0, operation, ": input: expected a multiple of ", pieces,
            " along axis ", x.axis, ", got ", x.length);
  TensorView y, index_view;
  const py::object result = x.make(x.length / pieces, y);
  py::object index;
  if (with_index) {
    const int64_t shape[1] = {args.rows * maxout_index_row_bytes(args.cols, pieces)};
    index = make_array(x.view, DType::uint8, 1, shape, nullptr, index_view);
    args.index = static_cast<uint8_t*>(index_view.data);
  }
  args.input = x.view.data;
  args.output = y.data;
  args.nontemporal = writes_past_cache(y.bytes());
  without_gil(operation, x.view.size(), [&] { runtime::kernels().maxout(args); });
  return with_index ? py::object(py::make_tuple(result, index)) : result;
}

py::object maxout_backward(py::handle grad_object, py::handle index_object, int64_t pieces,
                           int axis) {
  constexpr const char* operation = "maxout_backward";
  const AxisSplit grad(grad_object, axis, operation, "grad_output");
  MaxoutArgs args = maxout_args(grad, pieces, grad.length, operation);
  TensorView index = view_of(index_object, operation, "index");
  const int64_t bytes = args.rows * maxout_index_row_bytes(args.cols, pieces);
  DLK_CHECK_TYPE(index.dtype == DType::uint8, operation, ": index: expected uint8, got ",
                 dtype_name(index.dtype));
  DLK_CHECK(index.ndim == 1 && index.size() == bytes, operation, ": index: expected shape (", bytes,
            ",), got ", shape_text(index));
  py::object index_owner;
  if (!index.contiguous()) {
    TensorView copy;
    index_owner = contiguous_copy(index, copy);
    index = copy;
  }
  TensorView dx;
  py::object result = grad.make(grad.length * pieces, dx);
  args.grad_output = grad.view.data;
  args.index = static_cast<uint8_t*>(index.data);
  args.output = dx.data;
  args.nontemporal = writes_past_cache(dx.bytes());
  without_gil(operation, dx.size(), [&] { runtime::kernels().maxout_backward(args); });
  DLK_CHECK(!args.bad_index, operation, ": index: expected numbers below ", pieces,
            ", as maxout makes them, got a larger one");
  return result;
}

py::object math_function(const std::string& name, py::handle x_object) {
  constexpr const char* names[] = {
      "exp",        "exp_nonpositive", "log",      "tanh",  "exp_bounded", "expm1_nonpositive",
      "log1p_unit", "sigmoid",         "softplus", "gauss", "normal_cdf"};
  MathFunctionArgs args{};
  args.function = -1;
  for (int index = 0; index < int(std::size(names)); ++index)
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
  def_fast<&activation>(m, "activation", {"index", "input", "out", "with_mask", "first", "second"});
  def_fast<&activation_backward>(m, "activation_backward",
                                 {"index", "grad_output", "saved", "mask", "first", "second"});
  def_fast<&prelu>(m, "prelu", {"input", "weight", "out"}, 1);
  def_fast<&prelu_backward>(m, "prelu_backward", {"grad_output", "input", "weight"});
  def_fast<&gated_halves>(
      m, "gated_halves", {"input", "axis", "silu"}, 0,
      [](PyObject* const* args) { return gated_name(args[2] == Py_True, false); });
  def_fast<&gated_halves_backward>(
      m, "gated_halves_backward", {"grad_output", "input", "axis", "silu"}, 0,
      [](PyObject* const* args) { return gated_name(args[3] == Py_True, true); });
  def_fast<&swiglu>(m, "swiglu", {"gate", "up"});
  def_fast<&swiglu_backward>(m, "swiglu_backward", {"grad_output", "gate", "up"});
  def_fast<&maxout>(m, "maxout", {"input", "pieces", "axis", "return_index"});
  def_fast<&maxout_backward>(m, "maxout_backward", {"grad_output", "index", "pieces", "axis"});
  m.def("math_function", &math_function);
}

} // namespace dlk
