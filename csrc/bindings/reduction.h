// How a loss's reduction is named.
#pragma once

#include "bindings/arguments.h"
#include "bindings/arrays/tensor.h"

namespace dlk {

enum class Reduction { none, mean, sum };

inline Reduction reduction_of(py::handle text_object) {
  if (PyUnicode_Check(text_object.ptr())) {
    if (PyUnicode_CompareWithASCIIString(text_object.ptr(), "mean") == 0)
      return Reduction::mean;
    if (PyUnicode_CompareWithASCIIString(text_object.ptr(), "sum") == 0)
      return Reduction::sum;
    if (PyUnicode_CompareWithASCIIString(text_object.ptr(), "none") == 0)
      return Reduction::none;
  }
  const bool is_text = PyUnicode_Check(text_object.ptr());
  throw std::invalid_argument(
      text(is_text ? std::string(py::str(text_object)) : type_text(text_object),
           " is not a valid value for reduction"));
}

} // namespace dlk
