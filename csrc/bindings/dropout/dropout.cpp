// dropout, alpha_dropout and feature dropouts, and their backwards.
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/dropout/probability.h"
#include "bindings/fast_call.h"
#include "kernels/dropout/args.h"

#include <cmath>
#include <optional>

namespace dlk {
namespace {

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

// The formulas of kernels/dropout/dropout.cpp. `plane_dims`: 0 for element by element; else whole
// planes are kept or dropped, of an array (N, C, ...) if it is 2, or (C, ...) if it is 1. `ndim`:
// how many dimensions there must be; 0: any. `kept_object`: the bits to use instead of drawing, or
// None. with_kept: (y, bits), one for each element in order, None for planes.
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
    check_like(residual, x, operation, "residual");
  }
  Output output(out, operation, x,
                {{&x, argument}, {with_residual ? &residual : nullptr, "residual"}});
  TensorView& y = output.view;

  DropoutArgs args{};
  args.dtype = x.dtype;
  args.size = x.size();
  const int64_t kept_bytes = mask_bytes(args.size, 64);
  TensorView kept;
  py::object kept_result = py::none();
  if (!kept_object.is_none()) {
    DLK_CHECK(plane_dims == 0, operation, ": kept: expected None for planes");
    kept = mask_view_of(kept_object, operation, "kept", kept_bytes, true);
    args.kept_in = static_cast<const uint64_t*>(kept.data);
  } else if (with_kept && plane_dims == 0) {
    kept_result = make_array(x, DType::uint8, 1, &kept_bytes, nullptr, kept);
    args.kept_out = static_cast<uint64_t*>(kept.data);
  }
  const auto results = [&] {
    const py::object plain = output.result();
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

  // The kernel takes memory in the order of the elements, and planes also with their channels last.
  // Anything else is copied into that order, and the result is copied back.
  TensorView copy;
  const bool last = args.plane > 1 && !y.contiguous() && is_channels_last(y, plane_dims - 1);
  const bool in_order = last || y.contiguous();
  const TensorView* to = &y;
  if (!in_order) {
    copy = contiguous_copy(x);
    to = &copy;
  } else if (!same_strides(x, y)) {
    copy_elements(x, y);
  }
  args.output = to->data;
  args.input = in_order && same_strides(x, y) ? x.data : to->data;
  if (with_residual) {
    make_contiguous(residual);
    args.residual = residual.data;
  }
  std::optional<Scratch<uint64_t>> words;
  if (last) {
    args.channels = x.shape[plane_dims - 1];
    const int64_t images = args.size / args.plane / args.channels;
    words.emplace(images * chunk_count(args.channels, 64));
    args.words = words->data();
  }
  args.nontemporal =
      args.output != args.input && args.output != args.residual && writes_past_cache(x.bytes());
  without_gil(operation, args.size, [&] { runtime::kernels().dropout(args); });
  if (!in_order)
    copy_elements(copy, y);
  return results();
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&dropout>(
      m, "dropout",
      "Dropout of elements or planes, alpha dropout, the residual after it; or its gradient.",
      {"operation", "input", "residual", "out", "seed", "p", "alpha", "plane_dims", "ndim",
       "backward", "kept", "with_kept"},
      0, [](PyObject* const* args) { return as_text(args[0], "dropout", "operation"); });
}

} // namespace dlk
