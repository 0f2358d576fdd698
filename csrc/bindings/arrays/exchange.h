// What reading and making arrays share: DLPack and NumPy types, and the exchange API of a type.
#pragma once

#include "bindings/arrays/dlpack_abi.h"
#include "bindings/arrays/tensor.h"

namespace dlk {

// A Python type that offers the DLPack C exchange API.
struct ExchangeType {
  const dlpack::ExchangeApi* api;
  PyObject* is_neg;    // the type's own method (torch: is the negative bit set), or nullptr
  size_t tensor_place; // where its objects have what `is_negated` of torch_handle.h reads, or 0
  bool is_torch;       // whose tensors may all be written to
};

// Whether this is a torch tensor.
bool is_torch_tensor(py::handle object);

// Looks the object's type up once and remembers it; `api` is nullptr when it offers none.
ExchangeType exchange_type(py::handle object);

// Whether the object's memory holds the negation of its values, which DLPack has no field for.
bool is_negated(py::handle object, const ExchangeType& type);

// The first line of the Python error that is set, which is cleared.
std::string take_python_error();

dlpack::DataType dlpack_type(DType dtype);
bool dtype_from_dlpack(dlpack::DataType type, DType& dtype);

// The NumPy dtype; bfloat16 is that of ml_dtypes, a TypeError where it is not installed.
py::dtype numpy_dtype(DType dtype);
bool dtype_from_numpy(const py::dtype& numpy, DType& dtype);

void fill_row_major(int ndim, const int64_t* shape, int64_t* strides);

} // namespace dlk
