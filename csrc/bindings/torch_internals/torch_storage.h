// Results that torch can resize. A tensor that torch makes of another library's memory has a
// storage that refuses `resize_`, `out=` of another shape and the like, for want of a flag and of
// an allocator for what replaces the memory; both are torch's own private fields.
#pragma once

#include <cstddef>
#include <pybind11/pybind11.h>

namespace dlk {

// Finds the fields in tensors that torch makes, and tests them; `tensor_place` as exchange.h has
// it. If that fails, make_resizable does nothing.
void find_storage_fields(size_t tensor_place);

// Lets torch resize the storage of this tensor, which is new.
void make_resizable(pybind11::handle tensor, size_t tensor_place);

} // namespace dlk
