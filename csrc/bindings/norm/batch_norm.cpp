// batch_norm, forward.
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "bindings/norm/norm_call.h"

#include <cstring>
#include <utility>

namespace dlk {
namespace {

// Raises unless the two share no byte.
void check_apart(const TensorView& out, const TensorView& in, const char* operation,
                 const char* out_argument, const char* in_argument) {
  check_overlap(out, in, operation, out_argument, in_argument);
  DLK_CHECK(out.data != in.data || out.size() == 0, operation, ": ", out_argument,
            ": expected memory of its own, got that of ", in_argument);
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
    out_view = checked_output(out, call.operation, came.ndim, came.shape, came.dtype,
                              {{&came, "input"}, {residual ? &*residual : nullptr, "residual"}});
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

} // namespace

DLK_BINDINGS(m) {
  def_fast<&batch_norm>(m, "batch_norm", "Batch normalization, then a residual and an activation.",
                        {"input", "weight", "bias", "running_mean", "running_var", "training",
                         "momentum", "eps", "activation", "negative_slope", "residual", "save",
                         "out"});
}

} // namespace dlk
