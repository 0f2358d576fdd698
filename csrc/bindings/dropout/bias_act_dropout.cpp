// dropout(activation(x + bias)), forward and backward.
#include "bindings/activations/activation_parameters.h"
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/dropout/probability.h"
#include "bindings/fast_call.h"
#include "kernels/activations/list.h"
#include "kernels/dropout/args.h"

namespace dlk {
namespace {

constexpr const char* kActivationNames[] = {
#define DLK_ACTIVATION(name, Functor, saved) #name,
    DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
};
constexpr int kActivations = sizeof(kActivationNames) / sizeof(kActivationNames[0]);

// Rows of `columns`: the shape of x without its last dimension, and that.
void fill_rows(BiasActDropoutArgs& args, const TensorView& x, const char* operation) {
  DLK_CHECK(x.ndim >= 1, operation, ": input: expected at least 1 dimension, got 0");
  args.columns = x.shape[x.ndim - 1];
  args.rows = args.columns == 0 ? 0 : x.size() / args.columns;
}

struct BiasActDropout {
  TensorView x, bias, ordered;
  TensorView* copy_to = nullptr;
  BiasActDropoutArgs args{};

  BiasActDropout(py::handle x_object, py::handle bias_object, uint64_t seed, double p,
                 int activation, double first_parameter, double second_parameter,
                 const char* operation) {
    const Probability probability = probability_of(p, operation);
    DLK_CHECK(activation >= 0 && activation < kActivations, operation, ": no activation of index ",
              activation);
    x = view_of(x_object, operation, "input");
    check_floating(x, operation, "input");
    fill_rows(args, x, operation);
    args.dtype = x.dtype;
    args.activation = activation;
    args.parameters[0] = first_parameter;
    args.parameters[1] = second_parameter;
    check_parameters(args.parameters, x.dtype, operation, kActivationNames[activation]);
    args.seed = seed;
    args.limit = probability.limit();
    args.factor = factor_of(probability, x.dtype);
    if (!bias_object.is_none()) {
      bias = view_of(bias_object, operation, "bias");
      DLK_CHECK(bias.ndim == 1 && bias.shape[0] == args.columns, operation,
                ": bias: expected shape (", args.columns, ",), got ", shape_text(bias));
      check_same_dtype(bias, x, operation, "bias");
    }
  }

  // The kernel takes the elements in order: what is not is copied, `y` after the run.
  void lay_out(TensorView& y) {
    make_contiguous(x);
    make_contiguous(bias);
    args.input = x.data;
    args.bias = bias.data;
    args.output = y.data;
    if (!y.contiguous()) {
      make_array(x, x.dtype, x.ndim, x.shape, nullptr, ordered);
      args.output = ordered.data;
      copy_to = &y;
    }
    args.nontemporal = args.output != args.input && writes_past_cache(x.bytes());
  }

  void run(const char* operation, void (*kernel)(BiasActDropoutArgs&) noexcept) {
    without_gil(operation, x.size(), [&] { kernel(args); });
    if (copy_to)
      copy_elements(ordered, *copy_to);
  }
};

py::object bias_act_dropout(py::handle x_object, py::handle bias_object, py::handle out,
                            uint64_t seed, double p, int activation, double first_parameter,
                            double second_parameter) {
  constexpr const char* operation = "bias_act_dropout";
  BiasActDropout call(x_object, bias_object, seed, p, activation, first_parameter, second_parameter,
                      operation);
  const TensorView& x = call.x;
  const bool with_bias = !bias_object.is_none();
  Output output(out, operation, x, {{&x, "input"}, {with_bias ? &call.bias : nullptr, "bias"}});
  call.lay_out(output.view);
  call.run(operation, runtime::kernels().bias_act_dropout);
  return output.array;
}

// (dx, dbias); dbias is None without a bias.
py::object bias_act_dropout_backward(py::handle grad_object, py::handle x_object,
                                     py::handle bias_object, uint64_t seed, double p,
                                     int activation, double first_parameter,
                                     double second_parameter) {
  constexpr const char* operation = "bias_act_dropout_backward";
  BiasActDropout call(x_object, bias_object, seed, p, activation, first_parameter, second_parameter,
                      operation);
  const TensorView& x = call.x;
  TensorView grad = view_of(grad_object, operation, "grad_output"), dx, dbias;
  check_like(grad, x, operation, "grad_output");
  const py::object result = make_array_like(x, x.dtype, dx);
  py::object grad_bias = py::none();
  call.lay_out(dx);
  make_contiguous(grad);
  call.args.grad_output = grad.data;
  const int64_t chunks = chunk_count(call.args.rows, bias_chunk_rows(call.args.rows));
  const Scratch<double> sums(bias_object.is_none() ? 0 : chunks * call.args.columns);
  if (!bias_object.is_none()) {
    grad_bias = make_array(x, x.dtype, 1, &call.args.columns, nullptr, dbias);
    call.args.grad_bias = dbias.data;
    call.args.bias_sums = sums.data();
  }
  call.run(operation, runtime::kernels().bias_act_dropout_backward);
  return py::make_tuple(result, grad_bias);
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&bias_act_dropout>(m, "bias_act_dropout", "Bias, activation and dropout in one pass.",
                              {"input", "bias", "out", "seed", "p", "activation",
                               "the activation's first argument", "its second argument"});
  def_fast<&bias_act_dropout_backward>(m, "bias_act_dropout_backward",
                                       "Gradients of bias_act_dropout for its input and its bias.",
                                       {"grad_output", "input", "bias", "seed", "p", "activation",
                                        "the activation's first argument", "its second argument"});
}

} // namespace dlk
