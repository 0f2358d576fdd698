// Images times a number plus a number per channel: normalization and its inverse.
#include "bindings/arrays/outputs.h"
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "kernels/image/args.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace dlk {
namespace {

// Where the channels, rows, columns and images of a view are: (N,) H, W, C or (N,) C, H, W.
struct Axes {
  int image, channel, row, column; // image: -1 for one alone
};

Axes axes_of(int ndim, bool channels_last) {
  const int first = ndim - 3;
  if (channels_last)
    return {first - 1, first + 2, first, first + 1};
  return {first - 1, first, first + 1, first + 2};
}

int64_t stride_of(const TensorView& view, int dim) {
  return dim < 0 || view.shape[dim] == 1 ? 0 : view.strides[dim];
}

// Whether a kernel can take the view: pixels side by side, and channels too where they come last.
bool is_direct(const TensorView& view, bool channels_last) {
  const Axes axes = axes_of(view.ndim, channels_last);
  const int64_t pixel = channels_last ? view.shape[axes.channel] : 1;
  if (view.shape[axes.column] > 1 && view.strides[axes.column] != pixel)
    return false;
  // (An expanded channel's stride is 0, which the kernel takes for channels side by side.)
  const int64_t channel = view.strides[axes.channel];
  return view.shape[axes.channel] == 1 || (channels_last ? channel == 1 : channel != 0);
}

ImageLayout layout_of(const TensorView& view, bool channels_last) {
  const Axes axes = axes_of(view.ndim, channels_last);
  ImageLayout layout;
  layout.data = view.data;
  layout.dtype = view.dtype;
  layout.image_stride = stride_of(view, axes.image);
  layout.row_stride = stride_of(view, axes.row);
  // One channel is a plane wherever it is said to be.
  if (!channels_last || view.shape[axes.channel] == 1)
    layout.plane_stride = view.shape[axes.channel] == 1 ? 1 : view.strides[axes.channel];
  return layout;
}

DType dtype_of(const std::string& name, const char* operation) {
  for (const DType dtype :
       {DType::float32, DType::float64, DType::bfloat16, DType::float16, DType::uint8})
    if (name == dtype_name(dtype))
      return dtype;
  throw TypeError(text(
      operation, ": dtype: expected float32, float64, bfloat16, float16 or uint8, ", "got ", name));
}

// One number for each channel; one alone is for all of them.
std::vector<double> per_channel(const std::vector<double>& values, int64_t channels,
                                const char* operation, const char* argument) {
  DLK_CHECK(values.size() == 1 || static_cast<int64_t>(values.size()) == channels, operation, ": ",
            argument, ": expected one number or one for each of ", channels, " channels, got ",
            values.size());
  for (const double value : values)
    DLK_CHECK(std::isfinite(value), operation, ": ", argument, ": expected finite numbers, got ",
              value);
  return values.size() == 1 ? std::vector<double>(static_cast<size_t>(channels), values[0])
                            : values;
}

// The numbers as the kernel takes them, over and over up to a whole vector for each channel.
template <class T> std::vector<T> repeated(const std::vector<double>& values, int64_t repeats) {
  std::vector<T> result;
  result.reserve(values.size() * static_cast<size_t>(repeats));
  for (int64_t turn = 0; turn < repeats; ++turn)
    for (const double value : values)
      result.push_back(static_cast<T>(value));
  return result;
}

template <class T>
void run(const char* operation, ImageAffineArgs& args, const std::vector<double>& factors,
         const std::vector<double>& shifts) {
  constexpr int64_t kLanes = 16;
  args.repeats = args.channels < kLanes ? kLanes : 1;
  const std::vector<T> factor = repeated<T>(factors, args.repeats);
  const std::vector<T> shift = repeated<T>(shifts, args.repeats);
  args.factor = factor.data();
  args.shift = shift.data();
  without_gil(operation, args.images * args.rows * args.columns * args.channels,
              [&] { runtime::kernels().image_affine(args); });
}

// (x * scale - mean) / std channel by channel, or with `inverse` (x * std + mean) / scale, as an
// array of `dtype` ("" for what fits) in the layout asked for.
py::object image_normalize(const char* operation, py::handle x_object, py::handle out,
                           const std::vector<double>& means, const std::vector<double>& stds,
                           std::optional<double> scale, bool inverse, bool channels_last,
                           bool out_channels_last, const char* dtype) {
  TensorView x = view_of(x_object, operation, "x"), y, ordered;
  DLK_CHECK_TYPE(is_floating(x.dtype) || x.dtype == DType::uint8, operation,
                 ": x: expected uint8 or a floating dtype, got ", dtype_name(x.dtype));
  DLK_CHECK(x.ndim == 3 || x.ndim == 4, operation, ": x: expected 3 dimensions (one image) or 4, ",
            "got shape ", shape_text(x));
  const Axes axes = axes_of(x.ndim, channels_last), to = axes_of(x.ndim, out_channels_last);
  ImageAffineArgs args{};
  args.images = axes.image < 0 ? 1 : x.shape[axes.image];
  args.rows = x.shape[axes.row];
  args.columns = x.shape[axes.column];
  args.channels = x.shape[axes.channel];
  DLK_CHECK(args.channels <= kImageBlockElems, operation, ": x: expected at most ",
            kImageBlockElems, " channels, got ", args.channels);
  std::vector<double> factors = per_channel(stds, args.channels, operation, "std");
  std::vector<double> shifts = per_channel(means, args.channels, operation, "mean");
  for (const double std : stds)
    DLK_CHECK(std != 0, operation, ": std: expected numbers other than 0, got 0");

  DType out_dtype = DType::float32;
  if (!out.is_none())
    out_dtype = output_view_of(out, operation, "out").dtype;
  if (*dtype)
    out_dtype = dtype_of(dtype, operation);
  else if (out.is_none() && inverse)
    out_dtype = DType::uint8;
  else if (out.is_none() && is_floating(x.dtype))
    out_dtype = x.dtype;
  DLK_CHECK_TYPE(inverse ? is_floating(x.dtype) : is_floating(out_dtype), operation,
                 inverse ? ": x" : ": dtype", ": expected a floating dtype, got ",
                 dtype_name(inverse ? x.dtype : out_dtype));
  const bool has_bytes = (inverse ? out_dtype : x.dtype) == DType::uint8;
  const double unit = scale ? *scale : has_bytes ? 1.0 / 255 : 1.0;
  DLK_CHECK(std::isfinite(unit) && unit != 0, operation,
            ": scale: expected a finite number other than 0, got ", unit);
  for (size_t channel = 0; channel < factors.size(); ++channel) {
    const double std = factors[channel], mean = shifts[channel];
    factors[channel] = inverse ? std / unit : unit / std;
    shifts[channel] = inverse ? mean / unit : -mean / std;
    const double most = x.dtype == DType::float64 || out_dtype == DType::float64
                            ? std::numeric_limits<double>::max()
                            : double(std::numeric_limits<float>::max());
    DLK_CHECK(std::abs(factors[channel]) <= most, operation, ": std: expected numbers for which ",
              inverse ? "std / scale" : "scale / std", " is at most ", most, ", got ", std);
    DLK_CHECK(std::abs(shifts[channel]) <= most, operation, ": mean: expected numbers for which ",
              inverse ? "mean / scale" : "mean / std", " is at most ", most, ", got ", mean);
  }

  int64_t shape[4];
  if (axes.image >= 0)
    shape[to.image] = args.images;
  shape[to.row] = args.rows;
  shape[to.column] = args.columns;
  shape[to.channel] = args.channels;
  py::object result;
  if (out.is_none()) {
    result = make_array(x, out_dtype, x.ndim, shape, nullptr, y);
  } else {
    y = checked_output(out, operation, x.ndim, shape, out_dtype);
    // In place where each element keeps its place.
    DLK_CHECK(y.data != x.data || x.size() == 0 ||
                  (channels_last == out_channels_last && x.dtype == out_dtype),
              operation, ": out: expected memory of its own, since the layout or dtype changes, ",
              "got an overlap with x");
    check_overlap(y, x, operation, "out", "x");
    result = py::reinterpret_borrow<py::object>(out);
  }
  if (x.size() == 0)
    return result;
  if (!is_direct(x, channels_last))
    x = contiguous_copy(x);
  const TensorView* target = &y;
  if (!is_direct(y, out_channels_last)) {
    make_array(y, out_dtype, y.ndim, y.shape, nullptr, ordered);
    target = &ordered;
  }
  args.input = layout_of(x, channels_last);
  args.output = layout_of(*target, out_channels_last);
  // Rows that follow each other are one long row.
  const int64_t in_row = args.columns * (args.input.plane_stride ? 1 : args.channels);
  const int64_t out_row = args.columns * (args.output.plane_stride ? 1 : args.channels);
  if (args.input.row_stride == in_row && args.output.row_stride == out_row) {
    args.columns *= args.rows;
    args.rows = 1;
  }
  args.nontemporal = target->data != x.data && writes_past_cache(target->bytes());
  if (x.dtype == DType::float64 || out_dtype == DType::float64)
    run<double>(operation, args, factors, shifts);
  else
    run<float>(operation, args, factors, shifts);
  if (target != &y)
    copy_elements(ordered, y);
  return result;
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&image_normalize>(
      m, "image_normalize", "Normalizes images or undoes it, with a change of layout and dtype.",
      {"operation", "x", "out", "mean", "std", "scale", "inverse", "layout", "out_layout", "dtype"},
      0, [](PyObject* const* args) { return as_text(args[0], "image_normalize", "operation"); });
}

} // namespace dlk
