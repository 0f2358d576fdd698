// Batch normalization, forward and backward, whole and in the pieces that a normalization over
// several processes is made of. Everything about an argument is checked here, before anything is
// written.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/fast_call.h"
#include "bindings/norm_layout.h"
#include "kernels/norm/args.h"
#include "runtime/pool.h"
#include "runtime/threads.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace dlk {

namespace {

// Vectors of doubles that live as long as the call.
class Doubles {
public:
  explicit Doubles(int64_t count)
      : buffer_(size_t(count) * sizeof(double)),
        next_(static_cast<double*>(allocated(buffer_.data(), size_t(count)))) {}
  // Each starts on a line of its own.
  static int64_t padded(int64_t count) { return (count + 7) / 8 * 8; }
  double* take(int64_t count) {
    double* taken = next_;
    next_ += padded(count);
    return taken;
  }

private:
  runtime::ScopedBuffer buffer_;
  double* next_;
};

// Does backward need but a bit of what the activation was given?
bool rectifies(const BatchNormArgs& args) {
  return args.activation == NormActivation::relu || args.activation == NormActivation::leaky_relu;
}

// One call: its input, and everything that every function here checks alike.
class NormCall {
public:
  const char* operation;
  TensorView input; // as the kernel reads it
  BatchNormArgs args{};
  DType parameter_dtype = DType::float32; // of parameters and statistics, once one was seen
  int64_t channels, count;

  NormCall(py::handle input_object, const char* name) : operation(name) {
    input = view_of(input_object, operation, "input");
    check_floating(input, operation, "input");
    DLK_CHECK(input.ndim >= 2, operation, ": input: expected at least 2 dimensions (got ",
              input.ndim, ")");
    channels = input.shape[1];
    count = channels ? input.size() / channels : 0;
    args.dtype = input.dtype;
    args.channels = channels;
    args.count = double(count);
    parameter_dtype = input.dtype == DType::float64 ? DType::float64 : DType::float32;
  }

  bool empty() const { return input.size() == 0; }
  int64_t work() const { return input.size(); }

  void activate(py::handle activation, double negative_slope) {
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

  void check_channels(const TensorView& view, const char* argument) const {
    DLK_CHECK(view.ndim == 1 && view.shape[0] == channels, operation, ": ", argument,
              ": expected shape (", channels, ",), got ", shape_text(view), "; ", argument,
              " should contain ", channels, " elements not ", view.size());
  }

  // A vector of one element per channel, of a dtype that goes with the input.
  std::optional<TensorView> vector(py::handle object, const char* argument, bool written = false) {
    if (object.is_none())
      return std::nullopt;
    TensorView view = written ? output_view_of(object, operation, argument)
                              : view_of(object, operation, argument);
    check_channels(view, argument);
    const bool half = item_size(input.dtype) == 2;
    DLK_CHECK_TYPE(view.dtype == input.dtype || (half && view.dtype == DType::float32), operation,
                   ": ", argument, ": expected dtype ", dtype_name(input.dtype),
                   half ? " or float32" : "", ", got ", dtype_name(view.dtype));
    DLK_CHECK_TYPE(!seen_vector_ || view.dtype == parameter_dtype, operation, ": ", argument,
                   ": mixed dtype (CPU): expect parameter to have scalar type of ",
                   dtype_name(parameter_dtype), ", as those before it, got ",
                   dtype_name(view.dtype));
    seen_vector_ = true;
    parameter_dtype = view.dtype;
    return view;
  }

  // Statistics that an earlier call gave: float32 or float64, whatever the input's dtype.
  TensorView statistics(py::handle object, const char* argument) const {
    TensorView view = view_of(object, operation, argument);
    check_channels(view, argument);
    DLK_CHECK_TYPE(view.dtype == DType::float32 || view.dtype == DType::float64, operation, ": ",
                   argument, ": expected dtype float32 or float64, got ", dtype_name(view.dtype));
    return view;
  }

  std::optional<TensorView> same_as_input(py::handle object, const char* argument) const {
    if (object.is_none())
      return std::nullopt;
    TensorView view = view_of(object, operation, argument);
    DLK_CHECK(same_shape(view, input), operation, ": ", argument, ": expected shape ",
              shape_text(input), ", got ", shape_text(view));
    check_same_dtype(view, input, operation, argument);
    return view;
  }

  // Chooses how the arrays are walked and makes room for the kernel; after every check.
  void lay_out(bool reduce, bool elementwise, int arrays_read_twice) {
    args.reduce = reduce;
    args.elementwise = elementwise;
    if (!empty()) {
      layout = norm_layout(input, owners_[0]);
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

  ClassArray operand(const TensorView& view) {
    if (empty())
      return {};
    NormOperand operand = norm_operand(view, input, layout);
    owners_[owner_count_++] = operand.owner;
    return operand.strides;
  }

  // A new array that lies like the input.
  py::object like_input(ClassArray& strides, TensorView& view) {
    py::object array = make_array_like(input, input.dtype, view);
    if (!empty() && !norm_strides(view, layout, strides))
      throw std::logic_error(text(operation, ": a fresh array does not fit its input's layout"));
    return array;
  }

  const double* doubles(const std::optional<TensorView>& view) {
    return view ? load(*view, vectors_->take(channels)) : nullptr;
  }
  double* load(const TensorView& view, double* values) const {
    DoubleVectorArgs vector{view.dtype, channels, view.strides[0], view.data, values, 0};
    runtime::kernels().load_doubles(vector);
    return values;
  }
  void store(const TensorView& view, double* values) const {
    DoubleVectorArgs vector{view.dtype, channels, view.strides[0], view.data, values, 0};
    runtime::kernels().store_doubles(vector);
  }
  // invstd = 1 / sqrt(variances + eps)
  void invert(double* variances, double eps) const {
    DoubleVectorArgs vector{DType::float64, channels, 1, nullptr, variances, eps};
    runtime::kernels().inverse_stds(vector);
  }
  py::object new_vector(DType dtype, double* values) const {
    TensorView view;
    py::object array = make_array(input, dtype, 1, &channels, nullptr, view);
    store(view, values);
    return array;
  }

  // A mask of one bit per element, in the memory order of an array that lies like the input.
  int64_t mask_bytes() const { return (input.size() + 15) / 16 * 2; }
  void set_mask(const TensorView& mask) {
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
  py::object new_mask() {
    const int64_t bytes = mask_bytes();
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
  std::optional<TensorView> mask_view(py::handle object) const {
    if (object.is_none())
      return std::nullopt;
    TensorView mask = view_of(object, operation, "mask");
    DLK_CHECK(rectifies(args), operation, ": mask: expected none without relu or leaky_relu");
    DLK_CHECK(mask.dtype == DType::uint8 && mask.ndim == 1 && mask.contiguous() &&
                  mask.size() == mask_bytes(),
              operation, ": mask: expected ", mask_bytes(), " contiguous uint8, got ",
              shape_text(mask), " ", dtype_name(mask.dtype));
    return mask;
  }

  void run_forward() {
    const KernelTable& kernels = runtime::kernels();
    without_gil(operation, work(), [&] {
      layout.rows ? kernels.batch_norm_rows(args) : kernels.batch_norm_planes(args);
    });
  }
  void run_backward() {
    const KernelTable& kernels = runtime::kernels();
    without_gil(operation, work(), [&] {
      layout.rows ? kernels.batch_norm_backward_rows(args)
                  : kernels.batch_norm_backward_planes(args);
    });
  }

  NormLayout layout{};

private:
  std::optional<Doubles> vectors_;
  bool seen_vector_ = false;
  py::object owners_[6];
  int owner_count_ = 1;

  // Do `items` shared out among `threads` keep more than a fifth of them waiting?
  static bool unbalanced(int64_t items, int64_t threads) {
    const int64_t turns = (items + threads - 1) / threads;
    return items * 5 < turns * threads * 4;
  }

  bool split_planes(int64_t threads) const {
    return unbalanced(args.reduce ? channels : args.batches * channels, threads) &&
           args.batches * args.positions > kNormChunkElems;
  }

  bool split_rows(int64_t threads, int arrays) {
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
};

// Raises unless the two share no byte.
void check_apart(const TensorView& out, const TensorView& in, const char* operation,
                 const char* out_argument, const char* in_argument) {
  check_overlap(out, in, operation, out_argument, in_argument);
  DLK_CHECK(out.data != in.data || out.size() == 0, operation, ": ", out_argument,
            ": expected memory of its own, got that of ", in_argument);
}

bool saves_mask(const BatchNormArgs& args, bool with_residual) {
  return rectifies(args) && with_residual;
}

// "[1, 3]", as torch writes a size.
std::string size_text(const TensorView& view) {
  std::string all = "[";
  for (int dim = 0; dim < view.ndim; ++dim)
    all += (dim ? ", " : "") + std::to_string(view.shape[dim]);
  return all + "]";
}

// Running statistics as batch_norm and its backward take them where they are what normalizes.
void check_defined(py::handle running_mean, py::handle running_var, const char* operation) {
  DLK_CHECK(!running_mean.is_none(), operation,
            ": running_mean must be defined in evaluation mode");
  DLK_CHECK(!running_var.is_none(), operation, ": running_var must be defined in evaluation mode");
}

// In torch's words.
void check_eps(const NormCall& call, bool training, double eps) {
  DLK_CHECK(!training || call.count != 1,
            "Expected more than 1 value per channel when training, got input size ",
            size_text(call.input));
  DLK_CHECK(!training || eps > 0, "batch_norm eps must be positive during training, but got ", eps);
  DLK_CHECK(!(eps < 0), "batch_norm eps must be non-negative, but got ", eps);
}

// Where a result goes: a new array, `out` itself, or an array that is then copied to `out`.
struct NormOutput {
  py::object array;
  TensorView view;
  std::optional<TensorView> copy_to;
};

py::tuple batch_norm(py::handle input_object, py::handle weight_object, py::handle bias_object,
                     py::handle running_mean_object, py::handle running_var_object, bool training,
                     double momentum, double eps, py::handle activation, double negative_slope,
                     py::handle residual_object, bool save, py::handle out) {
  NormCall call(input_object, "batch_norm");
  BatchNormArgs& args = call.args;
  const TensorView came = call.input;
  call.activate(activation, negative_slope);
  const auto weight = call.vector(weight_object, "weight");
  const auto bias = call.vector(bias_object, "bias");
  if (!training)
    check_defined(running_mean_object, running_var_object, call.operation);
  const auto running_mean = call.vector(running_mean_object, "running_mean", training);
  const auto running_var = call.vector(running_var_object, "running_var", training);
  const auto residual = call.same_as_input(residual_object, "residual");
  check_eps(call, training, eps);
  if (training)
    for (const auto* running : {&running_mean, &running_var})
      if (*running) {
        const char* name = running == &running_mean ? "running_mean" : "running_var";
        check_overlap(**running, came, call.operation, name, "input");
        if (running == &running_var && running_mean)
          check_apart(**running, *running_mean, call.operation, name, "running_mean");
      }
  std::optional<TensorView> out_view;
  if (!out.is_none()) {
    out_view = output_view_of(out, call.operation, "out");
    DLK_CHECK(same_shape(*out_view, came), "batch_norm: out: expected shape ", shape_text(came),
              ", got ", shape_text(*out_view));
    check_same_dtype(*out_view, came, call.operation, "out");
    check_overlap(*out_view, came, call.operation, "out", "input");
    if (residual)
      check_overlap(*out_view, *residual, call.operation, "out", "residual");
    const std::pair<const std::optional<TensorView>*, const char*> vectors[] = {
        {&weight, "weight"},
        {&bias, "bias"},
        {&running_mean, "running_mean"},
        {&running_var, "running_var"}};
    for (const auto& [vector, name] : vectors)
      if (*vector)
        check_apart(*out_view, **vector, call.operation, "out", name);
  }

  const bool with_mask = save && saves_mask(args, residual.has_value());
  call.lay_out(training && !call.empty(), true, 1);
  args.weight = call.doubles(weight);
  args.bias = call.doubles(bias);
  args.eps = eps;
  if (residual)
    args.residual = call.operand(*residual);
  NormOutput output;
  if (out_view && (call.empty() || norm_strides(*out_view, call.layout, args.output))) {
    output.array = py::reinterpret_borrow<py::object>(out);
    output.view = *out_view;
  } else {
    output.array = call.like_input(args.output, output.view);
    output.copy_to = out_view;
  }
  args.nontemporal = args.output.data != args.input.data &&
                     args.output.data != args.residual.data &&
                     writes_past_cache(output.view.bytes());
  py::object mask = py::none(), save_mean = py::none(), save_invstd = py::none();
  if (with_mask)
    mask = call.new_mask();
  if (call.empty()) {
    std::memset(args.mean, 0, size_t(call.channels) * 3 * sizeof(double));
  } else {
    if (!training) {
      call.load(*running_mean, args.mean);
      call.load(*running_var, args.invstd);
      call.invert(args.invstd, eps);
    }
    call.run_forward();
    if (output.copy_to)
      copy_elements(output.view, *output.copy_to);
  }
  if (training && save) {
    save_mean = call.new_vector(DType::float64, args.mean);
    save_invstd = call.new_vector(DType::float64, args.invstd);
  }
  if (training && !call.empty()) {
    // running = (1 - momentum) running + momentum statistic; the buffers of sums are free by now
    const auto update = [&](const TensorView& running, const double* statistic, double factor) {
      double* values = call.load(running, args.sum_dy);
      for (int64_t channel = 0; channel < call.channels; ++channel)
        values[channel] =
            (1 - momentum) * values[channel] + momentum * (statistic[channel] * factor);
      call.store(running, values);
    };
    if (running_mean)
      update(*running_mean, args.mean, 1);
    if (running_var)
      update(*running_var, args.m2, 1 / (args.count - 1)); // the unbiased variance
  }
  return py::make_tuple(out_view ? py::reinterpret_borrow<py::object>(out) : output.array,
                        save_mean, save_invstd, mask);
}

py::tuple batch_norm_stats(py::handle input_object) {
  NormCall call(input_object, "batch_norm_stats");
  call.lay_out(!call.empty(), false, 1);
  if (call.empty())
    std::memset(call.args.mean, 0, size_t(call.channels) * 2 * sizeof(double));
  else
    call.run_forward();
  return py::make_tuple(call.new_vector(DType::float64, call.args.mean),
                        call.new_vector(DType::float64, call.args.m2));
}

py::tuple batch_norm_elemt(py::handle input_object, py::handle weight_object,
                           py::handle bias_object, py::handle mean_object, py::handle invstd_object,
                           py::handle activation, double negative_slope, py::handle residual_object,
                           bool save) {
  NormCall call(input_object, "batch_norm_elemt");
  BatchNormArgs& args = call.args;
  call.activate(activation, negative_slope);
  const auto weight = call.vector(weight_object, "weight");
  const auto bias = call.vector(bias_object, "bias");
  const TensorView mean = call.statistics(mean_object, "mean");
  const TensorView invstd = call.statistics(invstd_object, "invstd");
  const auto residual = call.same_as_input(residual_object, "residual");
  call.lay_out(false, true, 1);
  args.weight = call.doubles(weight);
  args.bias = call.doubles(bias);
  call.load(mean, args.mean);
  call.load(invstd, args.invstd);
  if (residual)
    args.residual = call.operand(*residual);
  TensorView view;
  py::object output = call.like_input(args.output, view);
  args.nontemporal = writes_past_cache(view.bytes());
  py::object mask = py::none();
  if (save && saves_mask(args, residual.has_value()))
    mask = call.new_mask();
  if (!call.empty())
    call.run_forward();
  return py::make_tuple(output, mask);
}

// What every backward takes, checked.
struct BackwardOperands {
  std::optional<TensorView> grad_output, weight, bias, residual, mask;

  BackwardOperands(NormCall& call, py::handle grad_object, py::handle weight_object,
                   py::handle bias_object, py::handle activation, double negative_slope,
                   py::handle residual_object, py::handle mask_object) {
    call.activate(activation, negative_slope);
    grad_output = call.same_as_input(grad_object, "grad_output");
    DLK_CHECK_TYPE(grad_output, call.operation, ": grad_output: expected an array, got None");
    weight = call.vector(weight_object, "weight");
    bias = call.vector(bias_object, "bias");
    residual = call.same_as_input(residual_object, "residual");
    mask = call.mask_view(mask_object);
  }

  void set(NormCall& call) const {
    BatchNormArgs& args = call.args;
    args.weight = call.doubles(weight);
    args.bias = call.doubles(bias);
    args.grad_output = call.operand(*grad_output);
    if (mask)
      call.set_mask(*mask);
    else if (residual && args.activation != NormActivation::none)
      args.residual = call.operand(*residual);
  }
};

// New arrays for the gradients that are wanted; None for the others.
struct Gradients {
  py::object input = py::none(), residual = py::none();

  Gradients(NormCall& call, bool want_input, bool want_residual) {
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
};

py::tuple batch_norm_backward(py::handle grad_object, py::handle input_object,
                              py::handle weight_object, py::handle bias_object,
                              py::handle running_mean_object, py::handle running_var_object,
                              py::handle save_mean_object, py::handle save_invstd_object,
                              bool training, double eps, py::handle activation,
                              double negative_slope, py::handle residual_object,
                              py::handle mask_object, const py::tuple& want) {
  NormCall call(input_object, "batch_norm_backward");
  BatchNormArgs& args = call.args;
  const BackwardOperands operands(call, grad_object, weight_object, bias_object, activation,
                                  negative_slope, residual_object, mask_object);
  std::optional<TensorView> mean, spread; // spread: 1 / std, or the running variance
  check_eps(call, training, eps);
  if (training && save_mean_object.is_none()) {
    // nobody kept the statistics: they are taken again
  } else if (training) {
    mean = call.statistics(save_mean_object, "save_mean");
    spread = call.statistics(save_invstd_object, "save_invstd");
  } else {
    check_defined(running_mean_object, running_var_object, call.operation);
    mean = call.vector(running_mean_object, "running_mean");
    spread = call.vector(running_var_object, "running_var");
  }
  DLK_CHECK(want.size() == 4, call.operation, ": want: expected 4 bools, got ", want.size());
  const auto wants = [&](size_t which) { return as_flag(want[which], call.operation, "want"); };
  const bool want_input = wants(0), want_weight = wants(1), want_bias = wants(2),
             want_residual = wants(3);
  const bool writes = want_input || want_residual;
  const bool reduce = want_weight || want_bias || (training && want_input);
  args.training = training;
  call.lay_out(reduce && !call.empty(), writes, 2);
  operands.set(call);
  if (mean) {
    call.load(*mean, args.mean);
    call.load(*spread, args.invstd);
    if (!training)
      call.invert(args.invstd, eps);
  } else if (!call.empty()) {
    NormCall forward(input_object, call.operation);
    forward.args.eps = eps;
    forward.lay_out(true, false, 1);
    forward.run_forward();
    std::copy_n(forward.args.mean, call.channels, args.mean);
    std::copy_n(forward.args.invstd, call.channels, args.invstd);
  }
  const Gradients gradients(call, want_input, want_residual);
  if (call.empty())
    std::fill_n(args.sum_dy, 2 * Doubles::padded(call.channels), 0.0);
  else if (reduce || writes)
    call.run_backward();
  py::object grad_weight = py::none(), grad_bias = py::none();
  if (want_bias)
    grad_bias = call.new_vector(call.parameter_dtype, args.sum_dy);
  if (want_weight) {
    for (int64_t channel = 0; channel < call.channels; ++channel)
      args.sum_dy_xmu[channel] *= args.invstd[channel];
    grad_weight = call.new_vector(call.parameter_dtype, args.sum_dy_xmu);
  }
  return py::make_tuple(gradients.input, grad_weight, grad_bias, gradients.residual);
}

py::tuple batch_norm_backward_reduce(py::handle grad_object, py::handle input_object,
                                     py::handle weight_object, py::handle bias_object,
                                     py::handle mean_object, py::handle invstd_object,
                                     py::handle activation, double negative_slope,
                                     py::handle residual_object, py::handle mask_object) {
  NormCall call(input_object, "batch_norm_backward_reduce");
  BatchNormArgs& args = call.args;
  const BackwardOperands operands(call, grad_object, weight_object, bias_object, activation,
                                  negative_slope, residual_object, mask_object);
  const TensorView mean = call.statistics(mean_object, "mean");
  const TensorView invstd = call.statistics(invstd_object, "invstd");
  call.lay_out(!call.empty(), false, 2);
  operands.set(call);
  call.load(mean, args.mean);
  call.load(invstd, args.invstd);
  if (call.empty())
    std::fill_n(args.sum_dy, 2 * Doubles::padded(call.channels), 0.0);
  else
    call.run_backward();
  return py::make_tuple(call.new_vector(DType::float64, args.sum_dy),
                        call.new_vector(DType::float64, args.sum_dy_xmu));
}

py::tuple batch_norm_backward_elemt(py::handle grad_object, py::handle input_object,
                                    py::handle weight_object, py::handle bias_object,
                                    py::handle mean_object, py::handle invstd_object,
                                    py::handle sum_dy_object, py::handle sum_dy_xmu_object,
                                    double count, py::handle activation, double negative_slope,
                                    py::handle residual_object, py::handle mask_object,
                                    bool want_input, bool want_residual) {
  NormCall call(input_object, "batch_norm_backward_elemt");
  BatchNormArgs& args = call.args;
  const BackwardOperands operands(call, grad_object, weight_object, bias_object, activation,
                                  negative_slope, residual_object, mask_object);
  const TensorView mean = call.statistics(mean_object, "mean");
  const TensorView invstd = call.statistics(invstd_object, "invstd");
  const TensorView sum_dy = call.statistics(sum_dy_object, "sum_dy");
  const TensorView sum_dy_xmu = call.statistics(sum_dy_xmu_object, "sum_dy_xmu");
  DLK_CHECK(count > 0 || call.empty(), call.operation, ": count: expected more than 0, got ",
            count);
  args.training = true;
  args.count = count;
  call.lay_out(false, true, 2);
  operands.set(call);
  call.load(mean, args.mean);
  call.load(invstd, args.invstd);
  call.load(sum_dy, args.sum_dy);
  call.load(sum_dy_xmu, args.sum_dy_xmu);
  const Gradients gradients(call, want_input, want_residual);
  if (!call.empty() && (want_input || want_residual))
    call.run_backward();
  return py::make_tuple(gradients.input, gradients.residual);
}

} // namespace

void bind_norm(py::module_& m) {
  def_fast<&batch_norm>(m, "batch_norm",
                        {"input", "weight", "bias", "running_mean", "running_var", "training",
                         "momentum", "eps", "activation", "negative_slope", "residual", "save",
                         "out"});
  def_fast<&batch_norm_backward>(m, "batch_norm_backward",
                                 {"grad_output", "input", "weight", "bias", "running_mean",
                                  "running_var", "save_mean", "save_invstd", "training", "eps",
                                  "activation", "negative_slope", "residual", "mask", "want"});
  def_fast<&batch_norm_stats>(m, "batch_norm_stats", {"input"});
  def_fast<&batch_norm_elemt>(m, "batch_norm_elemt",
                              {"input", "weight", "bias", "mean", "invstd", "activation",
                               "negative_slope", "residual", "save"});
  def_fast<&batch_norm_backward_reduce>(m, "batch_norm_backward_reduce",
                                        {"grad_output", "input", "weight", "bias", "mean", "invstd",
                                         "activation", "negative_slope", "residual", "mask"});
  def_fast<&batch_norm_backward_elemt>(
      m, "batch_norm_backward_elemt",
      {"grad_output", "input", "weight", "bias", "mean", "invstd", "sum_dy", "sum_dy_xmu", "count",
       "activation", "negative_slope", "residual", "mask", "want_input", "want_residual"});
}

} // namespace dlk
