#include "bindings/arrays/outputs.h"

#include <algorithm>

namespace dlk {

TensorView checked_output(py::handle out, const char* operation, int ndim, const int64_t* shape,
                          DType dtype, std::initializer_list<NamedView> inputs) {
  TensorView view = output_view_of(out, operation, "out");
  DLK_CHECK(view.ndim == ndim && std::equal(shape, shape + ndim, view.shape), operation,
            ": out: expected shape ", shape_text(ndim, shape), ", got ", shape_text(view));
  DLK_CHECK_TYPE(view.dtype == dtype, operation, ": out: expected dtype ", dtype_name(dtype),
                 ", got ", dtype_name(view.dtype));
  for (const NamedView& input : inputs)
    if (input.view)
      check_overlap(view, *input.view, operation, "out", input.name);
  return view;
}

Output::Output(py::handle out, const char* operation, const TensorView& like,
               std::initializer_list<NamedView> inputs)
    : is_given(!out.is_none()) {
  if (is_given) {
    view = checked_output(out, operation, like.ndim, like.shape, like.dtype, inputs);
    array = py::reinterpret_borrow<py::object>(out);
  } else {
    array = make_array_like(like, like.dtype, view);
  }
}

ElementwiseOutput::ElementwiseOutput(const TensorView& x, py::handle out, const char* operation)
    : output(out, operation, x, {{&x, "input"}}) {
  if (!output.view.dense()) {
    make_array_like(x, x.dtype, temporary);
    flat = &temporary;
  }
  const bool direct = x.dense() && same_strides(x, *flat);
  if (!direct)
    copy_elements(x, *flat);
  input = direct ? x.data : flat->data;
  nontemporal = input != flat->data && writes_past_cache(x.bytes());
}

py::object ElementwiseOutput::finish() {
  if (flat != &output.view)
    copy_elements(temporary, output.view);
  return output.result();
}

ElementwiseGradient::ElementwiseGradient(const TensorView& grad, const TensorView& saved,
                                         const char* operation)
    : x(saved) {
  check_like(grad, x, operation, "grad_output");
  if (!x.dense()) {
    TensorView copy;
    copy_owner_ = make_array_like(x, x.dtype, copy);
    copy_elements(x, copy);
    copy.array = x.array;
    copy.kind = x.kind;
    x = copy;
  }
  make_array_like(x, x.dtype, dx);
  const bool direct = grad.dense() && same_strides(grad, x);
  if (!direct)
    copy_elements(grad, dx);
  grad_output = direct ? grad.data : dx.data;
  nontemporal = direct && writes_past_cache(dx.bytes());
}

TensorView mask_view_of(py::handle object, const char* operation, const char* argument,
                        int64_t bytes, bool is_aligned) {
  TensorView mask = view_of(object, operation, argument);
  DLK_CHECK(
      mask.dtype == DType::uint8 && mask.ndim == 1 && mask.contiguous() && mask.size() == bytes &&
          (!is_aligned || reinterpret_cast<uintptr_t>(mask.data) % alignof(uint64_t) == 0),
      operation, ": ", argument, ": expected ", bytes, " contiguous", is_aligned ? ", aligned" : "",
      " uint8, got ", shape_text(mask), " ", dtype_name(mask.dtype));
  return mask;
}

} // namespace dlk
