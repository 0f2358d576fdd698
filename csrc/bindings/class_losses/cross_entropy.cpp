// cross_entropy, nll_loss, softmax and log_softmax, with their backwards. Everything about an
// argument is checked here, before anything is written; texts and exception types follow torch.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/class_layout.h"
#include "bindings/fast_call.h"
#include "bindings/reduction.h"
#include "kernels/class_losses/args.h"
#include "runtime/dispatch.h"
#include "runtime/pool.h"
#include "runtime/threads.h"

#include <cmath>
#include <limits>
#include <optional>

namespace dlk {

namespace {

using runtime::ScopedBuffer;

std::string size_list(const int64_t* shape, int begin, int end) {
  std::string list = "[";
  for (int dim = begin; dim < end; ++dim)
    list += text(dim > begin ? ", " : "", shape[dim]);
  return list + "]";
}

// The axis of the classes: 1, or 0 for an unbatched vector.
int class_axis(const TensorView& logits, const char* operation) {
  DLK_CHECK(logits.ndim > 0, operation, ": input: expected 1 or more dimensions (got 0)");
  return logits.ndim == 1 ? 0 : 1;
}

// Shapes of class indices against (C,), (N, C) or (N, C, d1, ...), in torch's words.
void check_index_shape(const TensorView& logits, const TensorView& target) {
  if (logits.ndim == 1) {
    DLK_CHECK(target.ndim == 0, "Expected target size [], got ",
              size_list(target.shape, 0, target.ndim));
    return;
  }
  DLK_CHECK(target.ndim > 0 && logits.shape[0] == target.shape[0], "Expected input batch_size (",
            logits.shape[0], ") to match target batch_size (", target.ndim ? target.shape[0] : 0,
            ").");
  bool same = target.ndim == logits.ndim - 1;
  for (int dim = 2; same && dim < logits.ndim; ++dim)
    same = target.shape[dim - 1] == logits.shape[dim];
  if (same)
    return;
  int64_t expected[kMaxDims] = {logits.shape[0]};
  for (int dim = 2; dim < logits.ndim; ++dim)
    expected[dim - 1] = logits.shape[dim];
  throw std::invalid_argument(text("Expected target size ", size_list(expected, 0, logits.ndim - 1),
                                   ", got ", size_list(target.shape, 0, target.ndim)));
}

// Class indices as the kernels read them, with what keeps them alive.
struct IndexOperand {
  ClassIndices indices;
  py::object owner;
};

IndexOperand index_operand(const TensorView& target, bool swapped) {
  DLK_CHECK_TYPE(target.dtype > DType::bool8, "target: expected an integer dtype, got ",
                 dtype_name(target.dtype));
  IndexOperand operand;
  operand.owner = target.array;
  const TensorView* source = &target;
  TensorView copy;
  ClassArray strides;
  // (N, d1, ...): the batch is what lies before a class axis that is not there
  const auto walk = [&](const TensorView& view) {
    TensorView with_axis;
    with_axis.data = view.data;
    with_axis.ndim = view.ndim + 1;
    const int axis = view.ndim ? 1 : 0;
    for (int dim = 0, from = 0; dim < with_axis.ndim; ++dim) {
      with_axis.shape[dim] = dim == axis ? 1 : view.shape[from];
      with_axis.strides[dim] = dim == axis ? 0 : view.strides[from];
      from += dim != axis;
    }
    return class_strides(with_axis, axis, strides);
  };
  if (!walk(target)) {
    operand.owner = contiguous_copy(target, copy);
    source = &copy;
    walk(copy);
  }
  strides = swap_if(swapped, strides);
  operand.indices = {source->data, source->dtype, strides.batch_stride, strides.position_stride};
  return operand;
}

// A vector of class weights, contiguous.
struct WeightOperand {
  const void* data = nullptr;
  py::object owner;
};

WeightOperand weight_operand(py::handle weight, const TensorView& logits, int64_t classes,
                             const char* operation) {
  WeightOperand operand;
  if (weight.is_none())
    return operand;
  TensorView view = view_of(weight, operation, "weight");
  DLK_CHECK(view.ndim == 1 && view.shape[0] == classes, operation,
            ": weight tensor should be defined either for all ", classes,
            " classes or no classes but got weight tensor of shape: ",
            size_list(view.shape, 0, view.ndim));
  check_same_dtype(view, logits, operation, "weight");
  operand.owner = view.array;
  operand.data = view.data;
  if (!view.contiguous()) {
    TensorView copy;
    operand.owner = contiguous_copy(view, copy);
    operand.data = copy.data;
  }
  return operand;
}

// Raises for the first target out of range; the divisor of a mean otherwise.
ClassTargetsArgs look_over_targets(const IndexOperand& target, const ClassLayout& layout,
                                   int64_t ignore_index, const void* weight, DType dtype) {
  ClassTargetsArgs args{};
  args.target = target.indices;
  args.batches = layout.batches;
  args.classes = layout.classes;
  args.positions = layout.positions;
  args.ignore_index = ignore_index;
  args.weight = weight;
  args.weight_dtype = dtype;
  without_gil("class_targets", layout.batches * layout.positions,
              [&] { runtime::kernels().class_targets(args); });
  DLK_CHECK_INDEX(!args.out_of_bounds, "Target ",
                  args.target.dtype == DType::uint64
                      ? std::to_string(static_cast<uint64_t>(args.bad_target))
                      : std::to_string(args.bad_target),
                  " is out of bounds.");
  return args;
}

// An array for each row's value: the logits' shape without the class axis.
py::object make_rows(const TensorView& logits, int axis, DType dtype, TensorView& view) {
  int64_t shape[kMaxDims];
  int ndim = 0;
  for (int dim = 0; dim < logits.ndim; ++dim)
    if (dim != axis)
      shape[ndim++] = logits.shape[dim];
  return make_array(logits, dtype, ndim, shape, nullptr, view);
}

// The gradient that arrives at a loss: a number, or one value of the input's dtype per row.
struct LossGradient {
  double scalar = 1;
  const void* rows = nullptr;
  py::object owner;
};

LossGradient loss_gradient(py::handle grad_output, const TensorView& input, int64_t rows,
                           const char* operation) {
  LossGradient grad;
  if (PyFloat_Check(grad_output.ptr())) {
    grad.scalar = PyFloat_AS_DOUBLE(grad_output.ptr());
    return grad;
  }
  const TensorView view = view_of(grad_output, operation, "grad_output");
  check_same_dtype(view, input, operation, "grad_output");
  DLK_CHECK(view.size() == rows, operation, ": grad_output: expected one value per target (", rows,
            "), got shape ", shape_text(view));
  grad.rows = view.data;
  grad.owner = view.owner;
  if (!view.contiguous()) {
    TensorView copy;
    grad.owner = contiguous_copy(view, copy);
    grad.rows = copy.data;
  }
  return grad;
}

// The number in an array of one float32 or float64: a loss's grad_output, at a tenth of the time
// that torch's item() takes.
py::object number_of(py::handle array) {
  const TensorView view = view_of(array, "number_of", "array");
  DLK_CHECK_TYPE(view.size() == 1 && (view.dtype == DType::float32 || view.dtype == DType::float64),
                 "number_of: array: expected one float32 or float64, got shape ", shape_text(view),
                 " of ", dtype_name(view.dtype));
  return py::float_(view.dtype == DType::float32 ? double(*static_cast<const float*>(view.data))
                                                 : *static_cast<const double*>(view.data));
}

DType lse_dtype(DType logits) {
  return logits == DType::float64 ? DType::float64 : DType::float32;
}

// Everything both directions of cross-entropy share: views, checks, the kernel's arguments.
struct CrossEntropyCall {
  TensorView logits;
  int axis;
  MainOperand main;
  CrossEntropyArgs args{};
  IndexOperand target_index;
  ClassOperand target_probability;
  WeightOperand weight;
  Reduction reduction;
  double divisor = 1;

  CrossEntropyCall(py::handle logits_object, py::handle target_object, py::handle weight_object,
                   int64_t ignore_index, py::handle reduction_text, double label_smoothing,
                   double z_loss, double softcap)
      : logits(view_of(logits_object, "cross_entropy", "input")) {
    constexpr const char* operation = "cross_entropy";
    reduction = reduction_of(reduction_text);
    axis = class_axis(logits, operation);
    check_floating(logits, operation, "input");
    check_holds(z_loss, logits.dtype, operation, "z_loss");
    check_holds(softcap, logits.dtype, operation, "softcap", softcap != 0);
    DLK_CHECK(!(label_smoothing > 1) && label_smoothing == label_smoothing,
              "label_smoothing must be between 0.0 and 1.0. Got: ", label_smoothing);
    DLK_CHECK(softcap >= 0 && softcap < std::numeric_limits<double>::infinity(), operation,
              ": softcap: expected a positive finite number or None, got ", softcap);
    DLK_CHECK(std::isfinite(z_loss), operation, ": z_loss: expected a finite number, got ", z_loss);
    const TensorView target = view_of(target_object, operation, "target");
    const bool is_probability = same_shape(target, logits);
    if (is_probability) {
      DLK_CHECK_TYPE(is_floating(target.dtype),
                     "Expected floating point type for target with class probabilities, got ",
                     dtype_name(target.dtype));
      check_same_dtype(target, logits, operation, "target");
      DLK_CHECK(ignore_index < 0, "ignore_index is not supported for floating point target");
    } else {
      check_index_shape(logits, target);
    }
    main = main_operand(logits, axis);
    args.dtype = logits.dtype;
    args.batches = main.layout.batches;
    args.classes = main.layout.classes;
    args.positions = main.layout.positions;
    args.logits = main.strides;
    args.ignore_index = ignore_index;
    args.label_smoothing = label_smoothing;
    args.z_loss = z_loss;
    args.softcap = softcap;
    weight = weight_operand(weight_object, logits, args.classes, operation);
    args.weight = weight.data;
    double counted = double(rows());
    divisor = counted;
    if (is_probability) {
      target_probability = class_operand(target, axis, logits, main);
      args.target_probability = target_probability.strides;
    } else {
      target_index = index_operand(target, main.swapped);
      args.target = target_index.indices;
      const ClassTargetsArgs targets =
          look_over_targets(target_index, main.layout, ignore_index, args.weight, args.dtype);
      divisor = targets.weight_sum;
      counted = double(targets.counted);
    }
    if (reduction == Reduction::mean) {
      args.row_scale = 1 / divisor;
      args.z_scale = 1 / counted;
    }
  }

  int64_t rows() const { return args.batches * args.positions; }
  int64_t elems() const { return rows() * args.classes; }

  // Where the gradient is written: `out` itself, or an array that is then copied to it.
  struct Gradient {
    py::object array;
    TensorView view;
    std::optional<TensorView> copy_to;
  };

  Gradient gradient(py::handle out) {
    Gradient grad;
    if (!out.is_none()) {
      TensorView out_view = output_view_of(out, "cross_entropy", "out");
      DLK_CHECK(same_shape(out_view, logits), "cross_entropy: out: expected shape ",
                shape_text(logits), ", got ", shape_text(out_view));
      check_same_dtype(out_view, logits, "cross_entropy", "out");
      TensorView came = view_of(logits.array, "cross_entropy", "input");
      check_overlap(out_view, came, "cross_entropy", "out", "input");
      grad.array = py::reinterpret_borrow<py::object>(out);
      if (set_gradient(out_view)) {
        grad.view = out_view;
        return grad;
      }
      grad.copy_to = out_view;
      make_array_like(logits, logits.dtype, grad.view);
      set_gradient(grad.view);
      return grad;
    }
    grad.array = make_array_like(logits, logits.dtype, grad.view);
    if (!set_gradient(grad.view)) // a permutation that one stride cannot walk
      throw std::logic_error("cross_entropy: a fresh gradient does not fit its logits' layout");
    return grad;
  }

  bool set_gradient(const TensorView& view) {
    ClassArray strides;
    if (view.size() == 0) // nothing will be written
      return args.grad_logits.data = view.data, true;
    if (!class_strides(view, axis, strides))
      return false;
    strides = swap_if(main.swapped, strides);
    if (!fits(strides, main.layout, main.rows))
      return false;
    args.grad_logits = strides;
    args.nontemporal = view.data != logits.data && writes_past_cache(view.bytes());
    return true;
  }
};

py::object cross_entropy(py::handle logits, py::handle target, py::handle weight,
                         int64_t ignore_index, py::handle reduction, double label_smoothing,
                         double z_loss, double softcap, bool with_grad, py::handle out,
                         bool with_lse, bool with_argmax, py::handle grad_output) {
  CrossEntropyCall call(logits, target, weight, ignore_index, reduction, label_smoothing, z_loss,
                        softcap);
  CrossEntropyArgs& args = call.args;
  std::optional<CrossEntropyCall::Gradient> grad;
  LossGradient loss_grad;
  if (with_grad) {
    loss_grad = loss_gradient(grad_output, call.logits, call.rows(), "cross_entropy");
    args.grad_output = loss_grad.scalar;
    args.grad_output_rows = loss_grad.rows;
    grad.emplace(call.gradient(out));
  }

  const int64_t tile = plane_tile(args.classes, compute_bytes_of(args.dtype));
  const int64_t chunks = call.main.rows ? chunk_count(call.rows(), row_chunk(args.classes))
                                        : args.batches * chunk_count(args.positions, tile);
  if (!call.main.rows)
    args.scratch_bytes_per_thread = plane_scratch_bytes(args.classes, args.dtype);
  else if (with_grad)
    args.scratch_bytes_per_thread = row_scratch_bytes(args.classes, args.dtype);
  const int64_t scratch_bytes = args.scratch_bytes_per_thread * runtime::thread_count();
  ScopedBuffer partials(size_t(2 * chunks) * sizeof(double)), scratch { size_t(scratch_bytes) };
  args.loss_partials = static_cast<double*>(allocated(partials.data(), chunks));
  args.scratch = allocated(scratch.data(), scratch_bytes);

  TensorView loss_view, lse_view, argmax_view;
  py::object loss = py::none(), lse = py::none(), argmax = py::none();
  if (call.reduction == Reduction::none) {
    loss = make_rows(call.logits, call.axis, args.dtype, loss_view);
    args.row_loss = loss_view.data;
  }
  std::optional<ScopedBuffer> lse_doubles;
  if (with_lse) {
    lse = make_rows(call.logits, call.axis, lse_dtype(args.dtype), lse_view);
    args.row_lse = static_cast<double*>(lse_view.data);
    if (lse_view.dtype != DType::float64) {
      lse_doubles.emplace(size_t(call.rows()) * sizeof(double));
      args.row_lse = static_cast<double*>(allocated(lse_doubles->data(), call.rows()));
    }
    args.visit_ignored = true;
  }
  if (with_argmax) {
    argmax = make_rows(call.logits, call.axis, DType::int64, argmax_view);
    args.row_argmax = static_cast<int64_t*>(argmax_view.data);
    args.visit_ignored = true;
  }
  without_gil("cross_entropy", call.elems(), [&] {
    const KernelTable& kernels = runtime::kernels();
    call.main.rows ? kernels.cross_entropy(args) : kernels.cross_entropy_planes(args);
    if (grad && grad->copy_to)
      copy_elements(grad->view, *grad->copy_to);
    if (lse_doubles)
      for (int64_t row = 0; row < call.rows(); ++row)
        static_cast<float*>(lse_view.data)[row] = float(args.row_lse[row]);
  });
  if (call.reduction != Reduction::none) {
    double value = args.loss_sum;
    if (call.reduction == Reduction::mean && call.divisor == 0)
      value = std::numeric_limits<double>::quiet_NaN();
    loss = make_scalar(call.logits, args.dtype, value);
  } else {
    loss = returned(loss);
  }
  if (with_lse)
    lse = returned(lse);
  if (with_argmax)
    argmax = returned(argmax);
  if (!with_grad && !with_lse && !with_argmax)
    return loss;
  return py::make_tuple(loss, grad ? grad->array : py::none(), lse, argmax);
}

// --- softmax

int normalized_axis(int64_t axis, int ndim) {
  const int64_t dims = ndim ? ndim : 1;
  DLK_CHECK_INDEX(axis >= -dims && axis < dims,
                  "Dimension out of range (expected to be in range of [", -dims, ", ", dims - 1,
                  "], but got ", axis, ")");
  return int(axis < 0 ? axis + dims : axis);
}

struct Output {
  py::object array;
  TensorView view;
};

// `out` where it is given and the kernel can write it, else a fresh array like `like`.
Output softmax_output(const TensorView& like, py::handle out, const char* operation) {
  Output output;
  if (out.is_none()) {
    output.array = make_array_like(like, like.dtype, output.view);
    return output;
  }
  output.view = output_view_of(out, operation, "out");
  DLK_CHECK(same_shape(output.view, like), operation, ": out: expected shape ", shape_text(like),
            ", got ", shape_text(output.view));
  check_same_dtype(output.view, like, operation, "out");
  output.array = py::reinterpret_borrow<py::object>(out);
  return output;
}

// Runs `kernel` with `view` as its output, through a temporary where the strides do not fit.
template <class Kernel>
void with_fitting_output(const char* operation, const TensorView& view, int axis,
                         const TensorView& model, const MainOperand& main, SoftmaxArgs& args,
                         Kernel kernel) {
  TensorView target = view, temporary;
  py::object owner;
  ClassArray strides;
  const bool direct = class_strides(view, axis, strides) &&
                      fits(swap_if(main.swapped, strides), main.layout, main.rows);
  if (!direct) {
    owner = make_array_like(model, view.dtype, temporary);
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
  args.batches = main.layout.batches;
  args.classes = main.layout.classes;
  args.positions = main.layout.positions;
  args.input = main.strides;
  return args;
}

py::object softmax(py::handle x, int64_t axis_argument, bool logarithm, py::handle out) {
  const char* operation = logarithm ? "log_softmax" : "softmax";
  TensorView input = view_of(x, operation, "input");
  check_floating(input, operation, "input");
  const int axis = normalized_axis(axis_argument, input.ndim);
  Output output = softmax_output(input, out, operation);
  if (!out.is_none())
    check_overlap(output.view, input, operation, "out", "input");
  MainOperand main = main_operand(input, axis);
  SoftmaxArgs args = softmax_args(main, input.dtype, logarithm);
  args.scratch_bytes_per_thread = main.rows ? row_scratch_bytes(args.classes, args.dtype)
                                            : plane_scratch_bytes(args.classes, args.dtype);
  const int64_t scratch_bytes = args.scratch_bytes_per_thread * runtime::thread_count();
  ScopedBuffer scratch{size_t(scratch_bytes)};
  args.scratch = allocated(scratch.data(), scratch_bytes);
  with_fitting_output(operation, output.view, axis, input, main, args, runtime::kernels().softmax);
  return out.is_none() ? returned(output.array) : output.array;
}

py::object softmax_backward(py::handle grad_output, py::handle forward_output,
                            int64_t axis_argument, bool logarithm, py::handle out) {
  const char* operation = logarithm ? "log_softmax_backward" : "softmax_backward";
  TensorView input = view_of(forward_output, operation, "output");
  check_floating(input, operation, "output");
  const TensorView grad = view_of(grad_output, operation, "grad_output");
  DLK_CHECK(same_shape(grad, input), operation, ": grad_output: expected shape ", shape_text(input),
            ", got ", shape_text(grad));
  check_same_dtype(grad, input, operation, "grad_output");
  const int axis = normalized_axis(axis_argument, input.ndim);
  Output output = softmax_output(input, out, operation);
  if (!out.is_none()) {
    check_overlap(output.view, input, operation, "out", "output");
    check_overlap(output.view, grad, operation, "out", "grad_output");
  }
  MainOperand main = main_operand(input, axis);
  SoftmaxArgs args = softmax_args(main, input.dtype, logarithm);
  ClassOperand grad_operand = class_operand(grad, axis, input, main);
  args.grad_output = grad_operand.strides;
  with_fitting_output(operation, output.view, axis, input, main, args,
                      runtime::kernels().softmax_backward);
  return out.is_none() ? returned(output.array) : output.array;
}

// --- nll_loss

py::object nll_loss(py::handle log_probabilities, py::handle target_object,
                    py::handle weight_object, int64_t ignore_index, py::handle reduction_text) {
  constexpr const char* operation = "nll_loss";
  const Reduction reduction = reduction_of(reduction_text);
  TensorView input = view_of(log_probabilities, operation, "input");
  const int axis = class_axis(input, operation);
  check_floating(input, operation, "input");
  const TensorView target = view_of(target_object, operation, "target");
  check_index_shape(input, target);
  const ClassLayout layout = class_layout(input, axis);
  const WeightOperand weight = weight_operand(weight_object, input, layout.classes, operation);
  const IndexOperand indices = index_operand(target, false);
  const ClassTargetsArgs targets =
      look_over_targets(indices, layout, ignore_index, weight.data, input.dtype);

  NllLossArgs args{};
  py::object copy_owner;
  if (!class_strides(input, axis, args.log_probabilities)) {
    TensorView copy;
    copy_owner = contiguous_copy(input, copy);
    class_strides(copy, axis, args.log_probabilities);
  }
  args.dtype = input.dtype;
  args.batches = layout.batches;
  args.classes = layout.classes;
  args.positions = layout.positions;
  args.target = indices.indices;
  args.weight = weight.data;
  args.ignore_index = ignore_index;
  const int64_t rows = layout.batches * layout.positions;
  const int64_t chunks = chunk_count(rows, kNllChunkRows);
  ScopedBuffer partials(size_t(chunks) * sizeof(double));
  args.loss_partials = static_cast<double*>(allocated(partials.data(), chunks));
  TensorView loss_view;
  py::object loss;
  if (reduction == Reduction::none) {
    loss = make_rows(input, axis, input.dtype, loss_view);
    args.row_loss = loss_view.data;
  }
  without_gil(operation, rows, [&] { runtime::kernels().nll_loss(args); });
  if (reduction == Reduction::none)
    return returned(loss);
  return make_scalar(input, input.dtype,
                     reduction == Reduction::mean ? args.loss_sum / targets.weight_sum
                                                  : args.loss_sum);
}

py::object nll_loss_backward(py::handle grad_output, py::handle log_probabilities,
                             py::handle target_object, py::handle weight_object,
                             int64_t ignore_index, py::handle reduction_text) {
  constexpr const char* operation = "nll_loss_backward";
  const Reduction reduction = reduction_of(reduction_text);
  const TensorView input = view_of(log_probabilities, operation, "input");
  const int axis = class_axis(input, operation);
  check_floating(input, operation, "input");
  const TensorView target = view_of(target_object, operation, "target");
  check_index_shape(input, target);
  const ClassLayout layout = class_layout(input, axis);
  const WeightOperand weight = weight_operand(weight_object, input, layout.classes, operation);
  const IndexOperand indices = index_operand(target, false);
  const ClassTargetsArgs targets =
      look_over_targets(indices, layout, ignore_index, weight.data, input.dtype);

  NllLossArgs args{};
  args.dtype = input.dtype;
  args.batches = layout.batches;
  args.classes = layout.classes;
  args.positions = layout.positions;
  args.target = indices.indices;
  args.weight = weight.data;
  args.ignore_index = ignore_index;
  if (reduction == Reduction::mean)
    args.row_scale = 1 / targets.weight_sum;
  const LossGradient loss_grad =
      loss_gradient(grad_output, input, layout.batches * layout.positions, operation);
  args.row_scale *= loss_grad.scalar;
  args.grad_output_rows = loss_grad.rows;
  // Rows or planes as the input lies; row-major where it lies otherwise.
  TensorView result;
  py::object grad = make_array_like(input, input.dtype, result);
  ClassArray strides;
  if (!class_strides(result, axis, strides) ||
      (strides.class_stride != 1 && layout.positions > 1 && strides.position_stride != 1) ||
      (strides.class_stride != 1 && layout.positions == 1)) {
    grad = make_array(input, input.dtype, input.ndim, input.shape, nullptr, result);
    class_strides(result, axis, strides);
  }
  args.grad_input = strides;
  without_gil(operation, result.size(), [&] { runtime::kernels().nll_loss_backward(args); });
  return grad;
}

} // namespace

void bind_losses(py::module_& m) {
  def_fast<&cross_entropy>(m, "cross_entropy",
                           {"input", "target", "weight", "ignore_index", "reduction",
                            "label_smoothing", "z_loss", "softcap", "with_grad", "out",
                            "return_lse", "return_argmax", "grad_output"});
  def_fast<&number_of>(m, "number_of", {"array"});
  def_fast<&softmax>(
      m, "softmax", {"input", "axis", "logarithm", "out"}, 0,
      [](PyObject* const* args) { return args[2] == Py_True ? "log_softmax" : "softmax"; });
  def_fast<&softmax_backward>(
      m, "softmax_backward", {"grad_output", "output", "axis", "logarithm", "out"}, 0,
      [](PyObject* const* args) {
        return args[3] == Py_True ? "log_softmax_backward" : "softmax_backward";
      });
  def_fast<&nll_loss>(m, "nll_loss", {"input", "target", "weight", "ignore_index", "reduction"});
  def_fast<&nll_loss_backward>(
      m, "nll_loss_backward",
      {"grad_output", "input", "target", "weight", "ignore_index", "reduction"});
}

} // namespace dlk
