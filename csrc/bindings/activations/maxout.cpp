// Maxout, forward and backward.
#include "bindings/activations/axis_split.h"
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "kernels/activations/args.h"

namespace dlk {
namespace {

constexpr int64_t kMaxPieces = 256;

MaxoutArgs maxout_args(const AxisSplit& split, int64_t pieces, int64_t length,
                       const char* operation) {
  DLK_CHECK(pieces >= 1 && pieces <= kMaxPieces, operation, ": pieces: expected 1 to ", kMaxPieces,
            ", got ", pieces);
  MaxoutArgs args{};
  args.dtype = split.view.dtype;
  args.pieces = pieces;
  args.interleaved = split.inner == 1;
  args.rows = args.interleaved ? 1 : split.outer * length;
  args.cols = args.interleaved ? split.outer * length : split.inner;
  return args;
}

// y, or (y, the winners' numbers in bits)
py::object maxout(py::handle x_object, int64_t pieces, int axis, bool with_index) {
  constexpr const char* operation = "maxout";
  const AxisSplit x(x_object, axis, operation, "input");
  MaxoutArgs args = maxout_args(x, pieces, x.length / std::max<int64_t>(pieces, 1), operation);
  DLK_CHECK(x.length % pieces == 0, operation, ": input: expected a multiple of ", pieces,
            " along axis ", x.axis, ", got ", x.length);
  TensorView y, index_view;
  const py::object result = x.make(x.length / pieces, y);
  py::object index;
  if (with_index) {
    const int64_t shape[1] = {args.rows * maxout_index_row_bytes(args.cols, pieces)};
    index = make_array(x.view, DType::uint8, 1, shape, nullptr, index_view);
    args.index = static_cast<uint8_t*>(index_view.data);
  }
  args.input = x.view.data;
  args.output = y.data;
  args.nontemporal = writes_past_cache(y.bytes());
  without_gil(operation, x.view.size(), [&] { runtime::kernels().maxout(args); });
  return with_index ? py::object(py::make_tuple(result, index)) : result;
}

py::object maxout_backward(py::handle grad_object, py::handle index_object, int64_t pieces,
                           int axis) {
  constexpr const char* operation = "maxout_backward";
  const AxisSplit grad(grad_object, axis, operation, "grad_output");
  MaxoutArgs args = maxout_args(grad, pieces, grad.length, operation);
  TensorView index = view_of(index_object, operation, "index");
  const int64_t bytes = args.rows * maxout_index_row_bytes(args.cols, pieces);
  DLK_CHECK_TYPE(index.dtype == DType::uint8, operation, ": index: expected uint8, got ",
                 dtype_name(index.dtype));
  DLK_CHECK(index.ndim == 1 && index.size() == bytes, operation, ": index: expected shape (", bytes,
            ",), got ", shape_text(index));
  make_contiguous(index);
  TensorView dx;
  py::object result = grad.make(grad.length * pieces, dx);
  args.grad_output = grad.view.data;
  args.index = static_cast<uint8_t*>(index.data);
  args.output = dx.data;
  args.nontemporal = writes_past_cache(dx.bytes());
  without_gil(operation, dx.size(), [&] { runtime::kernels().maxout_backward(args); });
  DLK_CHECK(!args.bad_index, operation, ": index: expected numbers below ", pieces,
            ", as maxout makes them, got a larger one");
  return result;
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&maxout>(m, "maxout",
                    "The largest of every so many neighbours, and on request which it was.",
                    {"input", "pieces", "axis", "return_index"});
  def_fast<&maxout_backward>(m, "maxout_backward",
                             "Gradient of maxout, from the numbers of the winners.",
                             {"grad_output", "index", "pieces", "axis"});
}

} // namespace dlk
