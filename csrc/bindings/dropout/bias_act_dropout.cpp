// dropout(activation(x + bias)), forward and backward.
#include "bindings/activations/activation_parameters.h"
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/dropout/probability.h"
#include "bindings/fast_call.h"
#include "kernels/activations/list.h"
#include "kernels/dropout/args.h"
#include "runtime/pool.h"

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
  TensorView x, bias, x_copy, bias_copy;
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
      args.bias = in_order(bias, bias_copy);
    }
  }

  // The elements of `view` in order: where they lie, or in a copy.
  static const void* in_order(const TensorView& view, TensorView& copy) {
    if (view.contiguous())
      return view.data;
    contiguous_copy(view, copy); // which holds its memory
    return copy.data;
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
  TensorView &y = output.view, ordered;
  call.args.input = call.in_order(x, call.x_copy);
  py::object owner;
  TensorView* to = &y;
  if (!y.contiguous()) {
    owner = make_array(x, x.dtype, x.ndim, x.shape, nullptr, ordered);
    to = &ordered;
  }
  call.args.output = to->data;
  call.args.nontemporal = to->data != call.args.input && writes_past_cache(x.bytes());
  without_gil(operation, x.size(), [&] { runtime::kernels().bias_act_dropout(call.args); });
  if (to != &y)
    copy_elements(ordered, y);
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
  const TensorView grad = view_of(grad_object, operation, "grad_output");
  check_like(grad, x, operation, "grad_output");
  TensorView dx, ordered, grad_copy, dbias;
  py::object result = make_array_like(x, x.dtype, dx), owner, grad_bias = py::none();
  call.args.input = call.in_order(x, call.x_copy);
  call.args.grad_output = call.in_order(grad, grad_copy);
  TensorView* to = &dx;
  if (!dx.contiguous()) {
    owner = make_array(x, x.dtype, x.ndim, x.shape, nullptr, ordered);
    to = &ordered;
  }
  call.args.output = to->data;
  call.args.nontemporal = writes_past_cache(x.bytes());
  const int64_t chunks = chunk_count(call.args.rows, bias_chunk_rows(call.args.rows));
  const int64_t sum_bytes =
      bias_object.is_none() ? 0 : chunks * call.args.columns * int64_t{sizeof(double)};
  const runtime::ScopedBuffer sums(sum_bytes);
  if (!bias_object.is_none()) {
    grad_bias = make_array(x, x.dtype, 1, &call.args.columns, nullptr, dbias);
    call.args.grad_bias = dbias.data;
    call.args.bias_sums = static_cast<double*>(allocated(sums.data(), sum_bytes));
  }
  without_gil(operation, x.size(),
              [&] { runtime::kernels().bias_act_dropout_backward(call.args); });
  if (to != &dx)
    copy_elements(ordered, dx);
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
