// One number out of an array.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/fast_call.h"

namespace dlk {
namespace {

// The number in an array of one float32 or float64: a loss's grad_output, at a tenth of the time
// that torch's item() takes.
py::object number_of(py::handle array) {
  const TensorView view = view_of(array, "number_of", "array");
  DLK_CHECK_TYPE(view.size() == 1 && (view.dtype == DType::float32 || view.dtype == DType::float64),
                 "number_of: array: expected one float32 or float64, got shape ", shape_text(view),
                 " of ", dtype_name(view.dtype));
  return py::float_(view.dtype == DType::float32 ? double(*static_cast<const float*>(view.data))
                                                 : *static_cast<const double*>(view.data));
}

} // namespace

DLK_BINDINGS(m) {
  def_fast<&number_of>(m, "number_of", "The only element of an array as a Python number.",
                       {"array"});
}

} // namespace dlk
