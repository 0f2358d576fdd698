#include "bindings/elementwise_losses/loss_call.h"

#include "kernels/elementwise_losses/list.h"

#include <algorithm>
#include <cstring>

namespace dlk {
namespace {

constexpr LossRow kRows[] = {
#define DLK_LOSS(key, Functor, name, shapes) {#key, name, shapes},
    DLK_ELEMENTWISE_LOSSES(DLK_LOSS)
#undef DLK_LOSS
};
constexpr int kRowCount = sizeof(kRows) / sizeof(kRows[0]);
constexpr int kTotal = 0;

// Raises unless the type computed in can hold a loss's numbers.
void check_numbers(const LossArgs& args, const char* loss) {
  struct Names {
    const char *loss, *first, *second;
  };
  static constexpr Names rows[] = {{"smooth_l1_loss", "beta", nullptr},
                                   {"huber_loss", "delta", nullptr},
                                   {"gaussian_nll_loss", "eps", nullptr},
                                   {"poisson_nll_loss", nullptr, "eps"},
                                   {"sigmoid_focal_loss", "alpha", "gamma"}};
  for (const Names& row : rows) {
    if (std::strcmp(row.loss, loss) != 0)
      continue;
    if (row.first)
      check_holds(args.parameters[0], args.dtype, loss, row.first);
    if (row.second)
      check_holds(args.parameters[1], args.dtype, loss, row.second);
  }
}

// The sum of an array, for a mean over weights.
double total_of(const TensorView& view, const char* operation) {
  LossArgs args{};
  args.dtype = view.dtype;
  args.loss = kTotal;
  LossLayout layout(args, operation, view);
  layout.take(kLossInput, view, "weight");
  layout.settle();
  layout.join();
  if (args.size)
    run_with_partials(args, runtime::kernels().elementwise_loss);
  return args.loss_sum;
}

// The variance of a Gaussian: of the input's shape, without its last dimension, or with one
// dimension of 1.
void fit_variance(TensorView& variance, const TensorView& input) {
  if (same_shape(variance, input))
    return;
  bool is_short = variance.ndim + 1 == input.ndim;
  for (int dim = 0; dim < variance.ndim && is_short; ++dim)
    is_short = variance.shape[dim] == input.shape[dim];
  if (is_short)
    return insert_dimension(variance, variance.ndim);
  int64_t others = variance.ndim == input.ndim ? 0 : -1;
  for (int dim = 0; dim < variance.ndim && others >= 0; ++dim)
    others += variance.shape[dim] == input.shape[dim] ? 0 : variance.shape[dim];
  DLK_CHECK(others == 1, "var is of incorrect size: expected ", shape_text(input),
            ", that without its last dimension, or with one dimension of 1, got ",
            shape_text(variance));
}

void check_fits(const TensorView& view, const TensorView& input, const char* operation,
                const char* argument) {
  bool fits = view.ndim <= input.ndim;
  for (int dim = 0; dim < view.ndim && fits; ++dim)
    fits = view.shape[dim] == 1 || view.shape[dim] == input.shape[input.ndim - view.ndim + dim];
  DLK_CHECK(fits, operation, ": ", argument, ": expected a shape that can be broadcast to ",
            shape_text(input), ", got ", shape_text(view));
}

// The sum of `grad` along the dimensions in which an operand of this shape was broadcast, rounded
// to the model's dtype. (The result has the first `result_ndim` dimensions of it.)
py::object sum_to(const TensorView& grad, const TensorView& model, int ndim, const int64_t* shape,
                  int result_ndim) {
  TensorView permuted = grad, sums;
  const int missing = grad.ndim - ndim;
  int place = 0;
  int64_t summed = 1;
  for (const bool kept : {true, false})
    for (int dim = 0; dim < grad.ndim; ++dim) {
      const bool is_summed = dim < missing || shape[dim - missing] != grad.shape[dim];
      if (is_summed == kept)
        continue;
      permuted.shape[place] = grad.shape[dim];
      permuted.strides[place++] = grad.strides[dim];
      summed *= is_summed ? grad.shape[dim] : 1;
    }
  const TensorView lines = contiguous_copy(permuted);
  py::object result = make_array(model, model.dtype, result_ndim, shape, nullptr, sums);
  LossArgs args{};
  args.dtype = grad.dtype;
  args.loss = kTotal;
  args.ndim = 2;
  args.shape[0] = sums.size();
  args.shape[1] = summed;
  args.size = grad.size();
  args.operands[kLossInput].data = lines.data;
  args.operands[kLossInput].strides[0] = summed;
  args.operands[kLossInput].strides[1] = 1;
  args.lines = true;
  args.line_sums = sums.data;
  args.sums_dtype = sums.dtype;
  if (args.size)
    run_with_partials(args, runtime::kernels().elementwise_loss);
  else
    std::memset(sums.data, 0, size_t(sums.bytes()));
  return result;
}

} // namespace

const LossRow& loss_row(int index) {
  DLK_CHECK(index >= 0 && index < kRowCount, "elementwise_loss: no loss of index ", index);
  return kRows[index];
}

int loss_index(const std::string& key) {
  for (int index = 0; index < kRowCount; ++index)
    if (key == kRows[index].key)
      return index;
  throw py::key_error("no elementwise loss named " + key);
}

int loss_count() {
  return kRowCount;
}

void insert_dimension(TensorView& view, int at) {
  DLK_CHECK(view.ndim < kMaxDims, "elementwise_loss: expected fewer than ", kMaxDims,
            " dimensions");
  for (int dim = view.ndim; dim > at; --dim) {
    view.shape[dim] = view.shape[dim - 1];
    view.strides[dim] = view.strides[dim - 1];
  }
  view.shape[at] = 1;
  view.strides[at] = 0;
  ++view.ndim;
}

void run_with_partials(LossArgs& args, void (*kernel)(LossArgs&) noexcept) {
  const int64_t length = args.shape[args.ndim - 1];
  const int64_t pieces = loss_pieces(args.size / length, length, args.lines);
  const Scratch<double> partials(pieces);
  args.partials = partials.data();
  without_gil(kRows[args.loss].name, args.size, [&] { kernel(args); });
}

LossCall::LossCall(int index, py::handle input_object, py::handle target_object,
                   py::handle third_object, py::handle fourth_object, double a, double b,
                   py::handle reduction_text)
    : row(loss_row(index)), input(view_of(input_object, row.name, "input")) {
  check_floating(input, row.name, "input");
  by_batch = PyUnicode_Check(reduction_text.ptr()) &&
             PyUnicode_CompareWithASCIIString(reduction_text.ptr(), "batchmean") == 0;
  reduction = by_batch ? Reduction::sum : reduction_of(reduction_text);
  args.dtype = input.dtype;
  args.loss = index;
  args.parameters[0] = a;
  args.parameters[1] = b;
  check_numbers(args, row.name);
  layout.emplace(args, row.name, input);
  layout->take(kLossInput, input, "input");
  if (!(row.shapes & kNoTarget)) {
    target = view_of(target_object, row.name, "target");
    DLK_CHECK(!(row.shapes & kTargetAsInput) || same_shape(target, input), row.name,
              ": target: expected the input's shape ", shape_text(input), ", got ",
              shape_text(target));
    layout->take(kLossTarget, target, "target");
  }
  take_third(third_object);
  if (!fourth_object.is_none()) {
    fourth = view_of(fourth_object, row.name, "pos_weight");
    if (row.shapes & kFitInput)
      check_fits(fourth, input, row.name, "pos_weight");
    layout->take(kLossFourth, fourth, "pos_weight");
  }
}

void LossCall::take_third(py::handle object) {
  const char* argument = row.shapes & kVariance ? "var" : "weight";
  has_third = !object.is_none();
  DLK_CHECK_TYPE(has_third || !(row.shapes & kVariance), row.name,
                 ": var: expected an array or a number, got None");
  if (!has_third)
    return;
  if ((row.shapes & kVariance) && PyFloat_Check(object.ptr())) { // the same everywhere
    args.operands[kLossThird].value = PyFloat_AS_DOUBLE(object.ptr());
    DLK_CHECK(!(args.operands[kLossThird].value < 0), "var has negative entry/entries");
    check_holds(args.operands[kLossThird].value, args.dtype, row.name, argument);
    return;
  }
  third = view_of(object, row.name, argument);
  third_ndim = third.ndim;
  check_same_dtype(third, input, row.name, argument);
  DLK_CHECK(!(row.shapes & kThirdAsInput) || same_shape(third, input), row.name, ": ", argument,
            ": expected the input's shape ", shape_text(input), ", got ", shape_text(third));
  if (row.shapes & kFitInput)
    check_fits(third, input, row.name, argument);
  if (row.shapes & kVariance)
    fit_variance(third, input);
  layout->take(kLossThird, third, argument);
}

void LossCall::find_divisor() {
  if (by_batch)
    divisor = input.ndim ? double(input.shape[0]) : 1;
  else if (reduction == Reduction::mean)
    divisor = has_third && (row.shapes & kWeightedMean) ? total_of(third, row.name)
                                                        : double(layout->size());
  args.scale = 1 / divisor;
}

void LossCall::check_domain() const {
  DLK_CHECK(!(args.refused & kBadThird), "var has negative entry/entries");
  DLK_CHECK(!(args.refused & kBadInput), "all elements of input should be between 0 and 1");
  DLK_CHECK(!(args.refused & kBadTarget), "all elements of target should be between 0 and 1");
}

bool LossCall::streams() const {
  for (const LossArray& array : args.results)
    if (array.wide)
      return false;
  int64_t arrays = 0;
  for (const LossArray& array : args.operands)
    arrays += array.data && array.strides[args.ndim - 1] != 0;
  for (const LossArray& array : args.results)
    arrays += array.data != nullptr;
  return args.shape[args.ndim - 1] >= 1024 &&
         writes_past_cache(arrays * args.size * item_size(args.dtype));
}

py::object LossCall::forward() {
  py::object each;
  if (reduction == Reduction::none)
    each = layout->result(kEachLoss);
  layout->join();
  args.nontemporal = each && streams();
  if (args.size)
    run_with_partials(args, runtime::kernels().elementwise_loss);
  check_domain();
  if (!each)
    return make_scalar(input, args.dtype, args.loss_sum / divisor);
  return returned(each);
}

py::object LossCall::lines(int axis) {
  TensorView sums;
  py::object result = make_line_sums(axis, sums);
  if (args.size == 0 && sums.size() != 0) {
    std::memset(sums.data, 0, size_t(sums.bytes()));
  } else if (args.size) {
    args.lines = true;
    args.line_sums = sums.data;
    args.sums_dtype = sums.dtype;
    run_with_partials(args, runtime::kernels().elementwise_loss);
    args.lines = false;
  }
  return returned(result);
}

py::object LossCall::make_line_sums(int axis, TensorView& sums) {
  int64_t shape[kMaxDims];
  int ndim = 0;
  for (int dim = 0; dim < layout->ndim(); ++dim)
    if (dim != axis)
      shape[ndim++] = layout->shape()[dim];
  return make_array(input, args.dtype, ndim, shape, nullptr, sums);
}

std::pair<int, const int64_t*> LossCall::shape_of(int which) const {
  const TensorView& view = which == 0 ? input : which == 1 ? target : third;
  return {which == 2 ? third_ndim : view.ndim, view.shape};
}

bool LossCall::is_broadcast(int which) const {
  const auto [ndim, shape] = shape_of(which);
  return ndim != layout->ndim() || !std::equal(shape, shape + ndim, layout->shape());
}

py::tuple LossCall::gradients(int wrt, py::handle out) {
  DLK_CHECK(out.is_none() || ((wrt & 1) && !is_broadcast(0)), row.name,
            ": out: expected None, since ",
            wrt & 1 ? "the input is broadcast" : "the input's gradient is not wanted");
  py::object made[3] = {py::none(), py::none(), py::none()};
  int wanted = 0;
  for (int which = 0; which < 3; ++which)
    if (wrt >> which & 1)
      made[which] = layout->result(LossResult(kGradInput + which), wanted++ ? py::none() : out,
                                   is_broadcast(which));
  layout->join();
  if (!out.is_none() && (row.shapes & kChecked) && args.size) { // before `out` is written
    run_with_partials(args, runtime::kernels().elementwise_loss);
    check_domain();
  }
  args.nontemporal = out.is_none() && streams();
  if (args.size)
    run_with_partials(args, runtime::kernels().elementwise_loss_gradients);
  check_domain();
  layout->copy_back();
  for (int which = 0; which < 3; ++which)
    if ((wrt >> which & 1) && is_broadcast(which)) {
      const auto [ndim, shape] = shape_of(which);
      // A variance without its last dimension was broadcast along it.
      int64_t summed[kMaxDims];
      std::copy_n(shape, ndim, summed);
      int dims = ndim;
      if (which == 2 && third.ndim != third_ndim)
        summed[dims++] = 1;
      made[which] = sum_to(layout->made(LossResult(kGradInput + which)), input, dims, summed, ndim);
    }
  if (out.is_none())
    made[0] = returned(made[0]);
  return py::make_tuple(made[0], returned(made[1]), returned(made[2]));
}

} // namespace dlk
