// cross_entropy and its gradient in one call. Every argument is checked here, before anything is
// written; texts and exception types follow torch.
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/class_losses/target_operands.h"
#include "bindings/fast_call.h"
#include "bindings/reduction.h"
#include "runtime/threads.h"

#include <cmath>
#include <limits>
#include <optional>

namespace dlk {
namespace {

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
    TensorView target = view_of(target_object, operation, "target");
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
    set_sizes(args, main.layout);
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
          checked_targets(target_index, main.layout, ignore_index, args.weight, args.dtype);
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
      const TensorView came = view_of(logits.array, "cross_entropy", "input");
      const TensorView out_view = checked_output(out, "cross_entropy", logits.ndim, logits.shape,
                                                 logits.dtype, {{&came, "input"}});
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
    if (!set_gradient(grad.view)) // a permutation that one stride cannot describe
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
  const Scratch<double> partials(2 * chunks);
  const Scratch<char> scratch(args.scratch_bytes_per_thread * runtime::thread_count());
  args.loss_partials = partials.data();
  args.scratch = scratch.data();

  TensorView loss_view, lse_view, argmax_view;
  py::object loss = py::none(), lse = py::none(), argmax = py::none();
  if (call.reduction == Reduction::none) {
    loss = make_rows(call.logits, call.axis, args.dtype, loss_view);
    args.row_loss = loss_view.data;
  }
  std::optional<Scratch<double>> lse_doubles;
  if (with_lse) {
    lse = make_rows(call.logits, call.axis, lse_dtype(args.dtype), lse_view);
    args.row_lse = static_cast<double*>(lse_view.data);
    if (lse_view.dtype != DType::float64) {
      lse_doubles.emplace(call.rows());
      args.row_lse = lse_doubles->data();
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

} // namespace

DLK_BINDINGS(m) {
  def_fast<&cross_entropy>(
      m, "cross_entropy",
      "Softmax cross-entropy of logits, and on request gradient, log-sum-exp and argmax.",
      {"input", "target", "weight", "ignore_index", "reduction", "label_smoothing", "z_loss",
       "softcap", "with_grad", "out", "return_lse", "return_argmax", "grad_output"});
}

} // namespace dlk
