// One number out of an array.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/fast_call.h"

namespace dlk {
namespace {

// The number in an array of one float32, float64 or int64: a loss's grad_output, a seed. Takes a
// tenth of the time that torch's item() does.
py::object number_of(py::handle array) {
  const TensorView view = view_of(array, "number_of", "array");
  if (view.size() == 1) {
    if (view.dtype == DType::float32)
      return py::float_(*static_cast<const float*>(view.data));
    if (view.dtype == DType::float64)
      return py::float_(*static_cast<const double*>(view.data));
    if (view.dtype == DType::int64)
      return py::int_(*static_cast<const int64_t*>(view.data));
  }
  throw py::type_error(text("number_of: array: expected one float32, float64 or int64, got shape ",
                            shape_text(view), " of ", dtype_name(view.dtype)));
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&number_of>(m, "number_of", "The only element of an array as a Python number.",
                       {"array"});
}

} // namespace dlk
