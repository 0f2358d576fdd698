// batch_norm, backward.
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "bindings/norm/norm_call.h"

#include <algorithm>

namespace dlk {
namespace {

py::tuple batch_norm_backward(py::handle grad_object, py::handle input_object,
                              py::handle weight_object, py::handle bias_object,
                              py::handle running_mean_object, py::handle running_var_object,
                              py::handle save_mean_object, py::handle save_invstd_object,
                              bool training, double eps, py::handle activation,
                              double negative_slope, py::handle residual_object,
                              py::handle mask_object, const py::tuple& want) {
  NormCall call(input_object, "batch_norm_backward");
  BatchNormArgs& args = call.args;
  const NormBackwardOperands operands(call, grad_object, weight_object, bias_object, activation,
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
  const NormGradients gradients(call, want_input, want_residual);
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

} // namespace

DLK_BINDINGS(m) {
  def_fast<&batch_norm_backward>(m, "batch_norm_backward",
                                 "Gradients of batch_norm for input, weight, bias and residual.",
                                 {"grad_output", "input", "weight", "bias", "running_mean",
                                  "running_var", "save_mean", "save_invstd", "training", "eps",
                                  "activation", "negative_slope", "residual", "mask", "want"});
}

} // namespace dlk
