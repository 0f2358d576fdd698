// The pieces that a batch normalization over several processes is made of: statistics, then the
// output; sums, then the gradients.
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "bindings/norm/norm_call.h"

#include <algorithm>
#include <cstring>

namespace dlk {
namespace {

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

py::tuple batch_norm_backward_reduce(py::handle grad_object, py::handle input_object,
                                     py::handle weight_object, py::handle bias_object,
                                     py::handle mean_object, py::handle invstd_object,
                                     py::handle activation, double negative_slope,
                                     py::handle residual_object, py::handle mask_object) {
  NormCall call(input_object, "batch_norm_backward_reduce");
  BatchNormArgs& args = call.args;
  const NormBackwardOperands operands(call, grad_object, weight_object, bias_object, activation,
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
  const NormBackwardOperands operands(call, grad_object, weight_object, bias_object, activation,
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
  const NormGradients gradients(call, want_input, want_residual);
  if (!call.empty() && (want_input || want_residual))
    call.run_backward();
  return py::make_tuple(gradients.input, gradients.residual);
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&batch_norm_stats>(m, "batch_norm_stats",
                              "Mean and inverse standard deviation of every channel.", {"input"});
  def_fast<&batch_norm_elemt>(
      m, "batch_norm_elemt", "Normalizes with given statistics, then a residual and an activation.",
      {"input", "weight", "bias", "mean", "invstd", "activation", "negative_slope", "residual",
       "save"});
  def_fast<&batch_norm_backward_reduce>(
      m, "batch_norm_backward_reduce",
      "The two sums over every channel that batch_norm_backward_elemt needs.",
      {"grad_output", "input", "weight", "bias", "mean", "invstd", "activation", "negative_slope",
       "residual", "mask"});
  def_fast<&batch_norm_backward_elemt>(
      m, "batch_norm_backward_elemt",
      "Gradients of batch_norm_elemt for input and residual, from sums.",
      {"grad_output", "input", "weight", "bias", "mean", "invstd", "sum_dy", "sum_dy_xmu", "count",
       "activation", "negative_slope", "residual", "mask", "want_input", "want_residual"});
}

} // namespace dlk
