#include "bindings/norm/norm_call.h"

#include "bindings/arguments.h"
#include "runtime/threads.h"

#include <algorithm>
#include <cstring>

namespace dlk {
namespace {

// Whether `items` shared out among `threads` keep more than a fifth of them waiting.
bool unbalanced(int64_t items, int64_t threads) {
  const int64_t turns = (items + threads - 1) / threads;
  return items * 5 < turns * threads * 4;
}

} // namespace

NormCall::NormCall(py::handle input_object, const char* name) : operation(name) {
  input = view_of(input_object, operation, "input");
  check_floating(input, operation, "input");
  DLK_CHECK(input.ndim >= 2, operation, ": input: expected at least 2 dimensions (got ", input.ndim,
            ")");
  channels = input.shape[1];
  count = channels ? input.size() / channels : 0;
  args.dtype = input.dtype;
  args.channels = channels;
  args.count = double(count);
  parameter_dtype = input.dtype == DType::float64 ? DType::float64 : DType::float32;
}

void NormCall::activate(py::handle activation, double negative_slope) {
  if (activation.is_none())
    return;
  const bool is_text = PyUnicode_Check(activation.ptr());
  const std::string name = is_text ? std::string(py::str(activation)) : std::string();
  args.activation = name == "relu"         ? NormActivation::relu
                    : name == "leaky_relu" ? NormActivation::leaky_relu
                                           : NormActivation::silu;
  args.negative_slope = negative_slope;
  DLK_CHECK(name == "relu" || name == "leaky_relu" || name == "silu", operation,
            ": activation: expected None, 'relu', 'leaky_relu' or 'silu', got ",
            is_text ? std::string(py::repr(activation)) : type_text(activation));
}

void NormCall::check_channels(const TensorView& view, const char* argument) const {
  DLK_CHECK(view.ndim == 1 && view.shape[0] == channels, operation, ": ", argument,
            ": expected shape (", channels, ",), got ", shape_text(view), "; ", argument,
            " should contain ", channels, " elements not ", view.size());
}

std::optional<TensorView> NormCall::vector(py::handle object, const char* argument, bool written) {
  if (object.is_none())
    return std::nullopt;
  TensorView view =
      written ? output_view_of(object, operation, argument) : view_of(object, operation, argument);
  check_channels(view, argument);
  const bool half = item_size(input.dtype) == 2;
  DLK_CHECK_TYPE(view.dtype == input.dtype || (half && view.dtype == DType::float32), operation,
                 ": ", argument, ": expected dtype ", dtype_name(input.dtype),
                 half ? " or float32" : "", ", got ", dtype_name(view.dtype));
  DLK_CHECK_TYPE(!seen_vector_ || view.dtype == parameter_dtype, operation, ": ", argument,
                 ": mixed dtype (CPU): expect parameter to have scalar type of ",
                 dtype_name(parameter_dtype), ", as those before it, got ", dtype_name(view.dtype));
  seen_vector_ = true;
  parameter_dtype = view.dtype;
  return view;
}

TensorView NormCall::statistics(py::handle object, const char* argument) const {
  TensorView view = view_of(object, operation, argument);
  check_channels(view, argument);
  DLK_CHECK_TYPE(view.dtype == DType::float32 || view.dtype == DType::float64, operation, ": ",
                 argument, ": expected dtype float32 or float64, got ", dtype_name(view.dtype));
  return view;
}

std::optional<TensorView> NormCall::same_as_input(py::handle object, const char* argument) const {
  if (object.is_none())
    return std::nullopt;
  TensorView view = view_of(object, operation, argument);
  check_like(view, input, operation, argument);
  return view;
}

void NormCall::lay_out(bool reduce, bool elementwise, int arrays_read_twice) {
  args.reduce = reduce;
  args.elementwise = elementwise;
  if (!empty()) {
    layout = norm_layout(input);
    norm_strides(input, layout, args.input);
    args.rows = layout.rows;
    args.batches = layout.batches;
    args.positions = layout.positions;
    args.width = layout.width;
    args.tail = layout.tail;
    const int64_t threads = work() < runtime::kGrainElems ? 1 : runtime::thread_count();
    args.split = layout.rows ? split_rows(threads, arrays_read_twice) : split_planes(threads);
  }
  const int64_t scratch_doubles = norm_scratch_doubles(args);
  vectors_.emplace(7 * Doubles::padded(channels) + Doubles::padded(scratch_doubles));
  for (double** vector : {&args.mean, &args.m2, &args.invstd, &args.sum_dy, &args.sum_dy_xmu})
    *vector = vectors_->take(channels);
  args.scratch = vectors_->take(scratch_doubles);
}

ClassArray NormCall::operand(const TensorView& view) {
  if (empty())
    return {};
  NormOperand operand = norm_operand(view, input, layout);
  owners_[owner_count_++] = operand.owner;
  return operand.strides;
}

py::object NormCall::like_input(ClassArray& strides, TensorView& view) {
  py::object array = make_array_like(input, input.dtype, view);
  if (!empty() && !norm_strides(view, layout, strides))
    throw std::logic_error(text(operation, ": a fresh array does not fit its input's layout"));
  return array;
}

double* NormCall::load(const TensorView& view, double* values) const {
  DoubleVectorArgs vector{view.dtype, channels, view.strides[0], view.data, values, 0};
  runtime::kernels().load_doubles(vector);
  return values;
}

void NormCall::store(const TensorView& view, double* values) const {
  DoubleVectorArgs vector{view.dtype, channels, view.strides[0], view.data, values, 0};
  runtime::kernels().store_doubles(vector);
}

void NormCall::invert(double* variances, double eps) const {
  DoubleVectorArgs vector{DType::float64, channels, 1, nullptr, variances, eps};
  runtime::kernels().inverse_stds(vector);
}

py::object NormCall::new_vector(DType dtype, double* values) const {
  TensorView view;
  py::object array = make_array(input, dtype, 1, &channels, nullptr, view);
  store(view, values);
  return array;
}

void NormCall::set_mask(const TensorView& mask) {
  if (empty())
    return;
  TensorView dense = input;
  dense_strides_like(input, dense.strides);
  ClassArray order;
  norm_strides(dense, layout, order);
  args.mask = static_cast<uint8_t*>(mask.data);
  args.mask_batch_stride = order.batch_stride;
  args.mask_class_stride = layout.rows ? 0 : order.class_stride;
}

py::object NormCall::new_mask() {
  const int64_t bytes = mask_bytes(input.size());
  TensorView view;
  py::object mask = make_array(input, DType::uint8, 1, &bytes, nullptr, view);
  // Runs that begin inside a byte add their bits to it, and so does the last of all.
  const bool whole_bytes = layout.rows || layout.positions % 8 == 0;
  const int64_t cleared = whole_bytes ? std::min<int64_t>(bytes, 2) : bytes;
  if (cleared)
    std::memset(static_cast<char*>(view.data) + bytes - cleared, 0, size_t(cleared));
  set_mask(view);
  return mask;
}

std::optional<TensorView> NormCall::mask_view(py::handle object) const {
  if (object.is_none())
    return std::nullopt;
  DLK_CHECK(rectifies(args), operation, ": mask: expected none without relu or leaky_relu");
  return mask_view_of(object, operation, "mask", mask_bytes(input.size()));
}

void NormCall::run_forward() {
  const KernelTable& kernels = runtime::kernels();
  without_gil(operation, work(), [&] {
    layout.rows ? kernels.batch_norm_rows(args) : kernels.batch_norm_planes(args);
  });
}

void NormCall::run_backward() {
  const KernelTable& kernels = runtime::kernels();
  without_gil(operation, work(), [&] {
    layout.rows ? kernels.batch_norm_backward_rows(args) : kernels.batch_norm_backward_planes(args);
  });
}

bool NormCall::split_planes(int64_t threads) const {
  return unbalanced(args.reduce ? channels : args.batches * channels, threads) &&
         args.batches * args.positions > kNormChunkElems;
}

bool NormCall::split_rows(int64_t threads, int arrays) {
  // Of all arrays that are read twice. Far less than L2: rows in order come so much faster than
  // pieces of them that reading twice from L3 costs less (4096 x 512: 1.97 against 1.36 ms).
  constexpr int64_t kSlabBytes = 1 << 16;
  if (layout.fold > 1 || !args.reduce)
    return true;
  for (args.slab_columns = kNormSlabColumns; args.slab_columns > 8; args.slab_columns /= 2) {
    const int64_t slabs = chunk_count(args.width, args.slab_columns);
    if (args.slab_columns > 16 && slabs < 2 * threads && threads > 1)
      continue;
    return unbalanced(slabs, threads) ||
           args.batches * args.slab_columns * item_size(args.dtype) * arrays > kSlabBytes;
  }
  return true;
}

void check_eps(const NormCall& call, bool training, double eps) {
  DLK_CHECK(!training || call.count != 1,
            "Expected more than 1 value per channel when training, got input size ",
            size_text(call.input.ndim, call.input.shape));
  DLK_CHECK(!training || eps > 0, "batch_norm eps must be positive during training, but got ", eps);
  DLK_CHECK(!(eps < 0), "batch_norm eps must be non-negative, but got ", eps);
}

void check_defined(py::handle running_mean, py::handle running_var, const char* operation) {
  DLK_CHECK(!running_mean.is_none(), operation,
            ": running_mean must be defined in evaluation mode");
  DLK_CHECK(!running_var.is_none(), operation, ": running_var must be defined in evaluation mode");
}

NormBackwardOperands::NormBackwardOperands(NormCall& call, py::handle grad_object,
                                           py::handle weight_object, py::handle bias_object,
                                           py::handle activation, double negative_slope,
                                           py::handle residual_object, py::handle mask_object) {
  call.activate(activation, negative_slope);
  grad_output = call.same_as_input(grad_object, "grad_output");
  DLK_CHECK_TYPE(grad_output, call.operation, ": grad_output: expected an array, got None");
  weight = call.vector(weight_object, "weight");
  bias = call.vector(bias_object, "bias");
  residual = call.same_as_input(residual_object, "residual");
  mask = call.mask_view(mask_object);
}

void NormBackwardOperands::set(NormCall& call) const {
  BatchNormArgs& args = call.args;
  args.weight = call.doubles(weight);
  args.bias = call.doubles(bias);
  args.grad_output = call.operand(*grad_output);
  if (mask)
    call.set_mask(*mask);
  else if (residual && args.activation != NormActivation::none)
    args.residual = call.operand(*residual);
}

NormGradients::NormGradients(NormCall& call, bool want_input, bool want_residual) {
  TensorView view;
  int64_t bytes = 0;
  if (want_input) {
    input = call.like_input(call.args.output, view);
    bytes += view.bytes();
  }
  if (want_residual) {
    residual = call.like_input(call.args.grad_residual, view);
    bytes += view.bytes();
  }
  // Both are written in one loop, whose steps are aligned to one of them.
  constexpr uintptr_t kLineBytes = 64;
  const uintptr_t apart = reinterpret_cast<uintptr_t>(call.args.output.data) ^
                          reinterpret_cast<uintptr_t>(call.args.grad_residual.data);
  call.args.nontemporal =
      writes_past_cache(bytes) && (!want_input || !want_residual || apart % kLineBytes == 0);
}

} // namespace dlk
