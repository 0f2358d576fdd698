// Dropout in all its forms, and bias + activation + dropout.
#include "bindings/activation_parameters.h"
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/fast_call.h"
#include "kernels/activations/list.h"
#include "kernels/dropout/args.h"
#include "runtime/pool.h"

#include <cmath>
#include <memory>

namespace dlk {

namespace {

constexpr const char* kActivationNames[] = {
#define DLK_ACTIVATION(name, Functor, saved) #name,
    DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
};
constexpr int kActivations = sizeof(kActivationNames) / sizeof(kActivationNames[0]);

// What of 65536 numbers keeps an element, and the factor of what is kept, 0 where nothing is.
struct Probability {
  double keep;    // 1 - p
  int64_t chosen; // in 65536
  uint16_t limit() const { return static_cast<uint16_t>(chosen > 0 ? chosen - 1 : 0); }
};

Probability probability_of(double p, const char* operation) {
  DLK_CHECK(p >= 0 && p <= 1, operation, ": p: expected a probability in [0, 1], got ", p);
  return {1 - p, static_cast<int64_t>(std::nearbyint((1 - p) * 65536))};
}

// 1 / (1 - p) as torch has it: divided in the computing type.
double factor_of(const Probability& probability, DType dtype) {
  if (probability.chosen == 0)
    return 0;
  return dtype == DType::float64 ? 1 / probability.keep : 1 / static_cast<float>(probability.keep);
}

void set_alpha_factors(DropoutArgs& args, const Probability& probability, bool backward) {
  constexpr double kDropped = -1.7580993408473766; // -scale * alpha of SELU
  const double p = 1 - probability.keep;
  if (probability.keep == 0) { // as torch: 0, without the shift
    args.factor = 0;
    return;
  }
  const double a = 1 / std::sqrt((kDropped * kDropped * p + 1) * probability.keep);
  const double shift = -a * kDropped * p;
  args.factor = probability.chosen == 0 ? 0 : a;
  args.shifted = !backward;
  args.dropped_shift = shift + a * kDropped;
  args.kept_shift = probability.chosen == 0 ? args.dropped_shift : shift;
}

// Arrays (N, C, ...), or (C, ...), whose channels lie side by side, without gaps.
bool is_channels_last(const TensorView& view, int channel_dim) {
  int64_t expected = view.shape[channel_dim];
  for (int dim = view.ndim - 1; dim > channel_dim; --dim) {
    if (view.shape[dim] != 1 && view.strides[dim] != expected)
      return false;
    expected *= view.shape[dim];
  }
  return (view.shape[channel_dim] == 1 || view.strides[channel_dim] == 1) &&
         (channel_dim == 0 || view.shape[0] == 1 || view.strides[0] == expected);
}

bool same_layout(const TensorView& a, const TensorView& b) {
  for (int dim = 0; dim < a.ndim; ++dim)
    if (a.shape[dim] != 1 && a.strides[dim] != b.strides[dim])
      return false;
  return true;
}

// The result of x, of its kind and layout, or `out`; y is its view.
py::object make_result(const TensorView& x, py::handle out, const char* operation,
                       const char* argument, TensorView& y) {
  if (out.is_none())
    return make_array_like(x, x.dtype, y);
  y = output_view_of(out, operation, "out");
  DLK_CHECK(same_shape(y, x), operation, ": out: expected shape ", shape_text(x), ", got ",
            shape_text(y));
  check_same_dtype(y, x, operation, "out");
  check_overlap(y, x, operation, "out", argument);
  return py::reinterpret_borrow<py::object>(out);
}

// What kernels/dropout/dropout.cpp says. `plane_dims`: 0 for element by element; else whole planes are kept
// or dropped, of an array (N, C, ...) if it is 2, or (C, ...) if it is 1. `ndim`: how many
// dimensions there must be; 0: any. `kept_object`: the bits to use instead of drawing, or None.
// with_kept: (y, bits), one for each element in order, None for planes.
py::object dropout(const char* operation, py::handle x_object, py::handle residual_object,
                   py::handle out, uint64_t seed, double p, bool alpha, int plane_dims, int ndim,
                   bool backward, py::handle kept_object, bool with_kept) {
  const bool with_residual = !residual_object.is_none();
  const char* argument = backward ? "grad_output" : "input";
  const Probability probability = probability_of(p, operation);
  TensorView x = view_of(x_object, operation, argument);
  check_floating(x, operation, argument);
  DLK_CHECK(x.ndim >= plane_dims, operation, ": ", argument, ": expected at least ", plane_dims,
            " dimensions (N, C, ...), got shape ", shape_text(x));
  DLK_CHECK(ndim == 0 || x.ndim == ndim, operation, ": ", argument, ": expected ", ndim,
            " dimensions (N, C, ...), got shape ", shape_text(x));
  TensorView residual;
  if (with_residual) {
    residual = view_of(residual_object, operation, "residual");
    DLK_CHECK(same_shape(residual, x), operation, ": residual: expected shape ", shape_text(x),
              ", got ", shape_text(residual));
    check_same_dtype(residual, x, operation, "residual");
  }
  TensorView y;
  const py::object result = make_result(x, out, operation, argument, y);
  if (with_residual && !out.is_none())
    check_overlap(y, residual, operation, "out", "residual");

  DropoutArgs args{};
  args.dtype = x.dtype;
  args.size = x.size();
  const int64_t kept_bytes = chunk_count(args.size, 64) * 8;
  TensorView kept;
  py::object kept_result = py::none();
  if (!kept_object.is_none()) {
    kept = view_of(kept_object, operation, "kept");
    DLK_CHECK(plane_dims == 0 && kept.dtype == DType::uint8 && kept.ndim == 1 &&
                  kept.contiguous() && kept.size() == kept_bytes &&
                  reinterpret_cast<uintptr_t>(kept.data) % alignof(uint64_t) == 0,
              operation, ": kept: expected ", kept_bytes, " contiguous, aligned uint8, got ",
              shape_text(kept), " ", dtype_name(kept.dtype));
    args.kept_in = static_cast<const uint64_t*>(kept.data);
  } else if (with_kept && plane_dims == 0) {
    kept_result = make_array(x, DType::uint8, 1, &kept_bytes, nullptr, kept);
    args.kept_out = static_cast<uint64_t*>(kept.data);
  }
  const auto results = [&] {
    const py::object plain = out.is_none() ? returned(result) : result;
    return with_kept ? py::object(py::make_tuple(plain, kept_result)) : plain;
  };
  if (args.size == 0)
    return results();
  args.seed = seed;
  args.limit = probability.limit();
  args.factor = factor_of(probability, x.dtype);
  if (alpha)
    set_alpha_factors(args, probability, backward);
  for (int dim = plane_dims; plane_dims && dim < x.ndim; ++dim)
    args.plane *= x.shape[dim];

  // The kernel walks memory in the order of the elements; planes may lie channels last too. All
  // else is copied into that order and the result copied back.
  TensorView copy, residual_copy;
  py::object owner, residual_owner;
  const bool last = args.plane > 1 && !y.contiguous() && is_channels_last(y, plane_dims - 1);
  const bool walkable = last || y.contiguous();
  const TensorView* to = &y;
  if (!walkable) {
    owner = contiguous_copy(x, copy);
    to = &copy;
  } else if (!same_layout(x, y)) {
    copy_elements(x, y);
  }
  args.output = to->data;
  args.input = walkable && same_layout(x, y) ? x.data : to->data;
  if (with_residual) {
    args.residual = residual.data;
    if (!residual.contiguous()) {
      residual_owner = contiguous_copy(residual, residual_copy);
      args.residual = residual_copy.data;
    }
  }
  std::unique_ptr<runtime::ScopedBuffer> words;
  if (last) {
    args.channels = x.shape[plane_dims - 1];
    const int64_t images = args.size / args.plane / args.channels;
    const int64_t bytes = images * chunk_count(args.channels, 64) * 8;
    words = std::make_unique<runtime::ScopedBuffer>(bytes);
    args.words = static_cast<uint64_t*>(allocated(words->data(), bytes));
  }
  args.nontemporal =
      args.output != args.input && args.output != args.residual && writes_past_cache(x.bytes());
  without_gil(operation, args.size, [&] { runtime::kernels().dropout(args); });
  if (!walkable)
    copy_elements(copy, y);
  return results();
}

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
  TensorView y, ordered;
  const py::object result = make_result(x, out, operation, "input", y);
  if (!bias_object.is_none() && !out.is_none())
    check_overlap(y, call.bias, operation, "out", "bias");
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
  return result;
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
  DLK_CHECK(same_shape(grad, x), operation, ": grad_output: expected shape ", shape_text(x),
            ", got ", shape_text(grad));
  check_same_dtype(grad, x, operation, "grad_output");
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

// The block of a counter of four words, for the generator's tests.
py::tuple philox(uint64_t key, uint32_t first, uint32_t second, uint32_t third, uint32_t fourth) {
  PhiloxArgs args{key, {first, second, third, fourth}};
  runtime::kernels().philox(args);
  return py::make_tuple(args.words[0], args.words[1], args.words[2], args.words[3]);
}

} // namespace

void bind_dropout(py::module_& m) {
  def_fast<&dropout>(
      m, "dropout",
      {"operation", "input", "residual", "out", "seed", "p", "alpha", "plane_dims", "ndim",
       "backward", "kept", "with_kept"},
      0, [](PyObject* const* args) { return as_text(args[0], "dropout", "operation"); });
  def_fast<&bias_act_dropout>(m, "bias_act_dropout",
                              {"input", "bias", "out", "seed", "p", "activation",
                               "the activation's first argument", "its second argument"});
  def_fast<&bias_act_dropout_backward>(m, "bias_act_dropout_backward",
                                       {"grad_output", "input", "bias", "seed", "p", "activation",
                                        "the activation's first argument", "its second argument"});
  m.def("philox", &philox);
}

} // namespace dlk
