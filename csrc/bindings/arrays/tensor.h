// Any array in, the same kind out.
//
// Arrays come in through (1) their type's `__dlpack_c_exchange_api__` (torch: no headers, no link),
// (2) NumPy's own fields, (3) `__dlpack__` (JAX and others). Results are made on memory of the pool
// and go back as the kind that came in.
#pragma once

#include "core/dtype.h"
#include "runtime/check.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace dlk {

namespace py = pybind11;

constexpr int kMaxDims = 64;

enum class ArrayKind : uint8_t { numpy, exchange, dlpack };
// Whether an array may be written to. `unknown`: its library has no flag for it.
enum class Access : uint8_t { writable, readonly, copied, unknown };

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::float32;
  ArrayKind kind = ArrayKind::numpy;
  Access access = Access::writable;
  int ndim = 0;
  int64_t shape[kMaxDims];
  int64_t strides[kMaxDims]; // in elements
  py::object owner;          // keeps the memory alive; the array itself, or a DLPack capsule
  py::object array;          // the array as it came (results are made like it)

  int64_t size() const;    // product of shape
  bool contiguous() const; // row-major, no gaps
  bool dense() const;      // some permutation of the dimensions is contiguous
  int64_t bytes() const { return size() * item_size(dtype); }
};

// Reads `object` as an array; `operation` and `argument` name it in errors. Refuses, with TypeError
// or ValueError: not an array, another device than the CPU, sparse, complex or unsupported dtypes,
// foreign byte order, strides that are no multiple of the item, tensors whose negative bit is set.
TensorView view_of(py::handle object, const char* operation, const char* argument);

// The same for something that will be written to. ValueError for read-only arrays, for arrays whose
// `access` is unknown, and for arrays with two elements in one place (expanded, sliding windows).
TensorView output_view_of(py::handle object, const char* operation, const char* argument);

// A faster view for lists of thousands: of a row-major torch tensor, owning nothing and without a
// copy of the shape. Returns false for everything else, which view_of then takes or refuses.
struct FlatView {
  void* data;
  const int64_t* shape; // valid while the array lives
  int64_t size;
  int ndim;
  DType dtype;
};
bool flat_view(py::handle object, FlatView& view);

// A new array of `like`'s kind, its memory from the pool; `view` receives its fields.
// `strides` may be nullptr for row-major.
py::object make_array(const TensorView& like, DType dtype, int ndim, const int64_t* shape,
                      const int64_t* strides, TensorView& view);

// The same shape as `like`, and the same order of dimensions in memory, without gaps.
py::object make_array_like(const TensorView& like, DType dtype, TensorView& view);

// The strides of such an array.
void dense_strides_like(const TensorView& like, int64_t* strides);

// What is returned of a new array once it is written: of NumPy's 0-d ones the scalar, as NumPy's
// own functions do.
py::object returned(const py::object& made);

// A 0-d result: a NumPy scalar for NumPy (as NumPy's own reductions give), else a 0-d array.
py::object make_scalar(const TensorView& like, DType dtype, double value);

// A fresh row-major copy of `source`'s elements (dtype kept) for operations whose kernel cannot
// take the strides. It owns its memory, and has `source`'s kind and array, so results made like it
// are made like `source`.
TensorView contiguous_copy(const TensorView& source);

// `view` becomes such a copy where it is not row-major.
void make_contiguous(TensorView& view);

// Copies elements between two views of the same shape and dtype, any strides.
void copy_elements(const TensorView& source, TensorView& destination);

// Whether two elements of a view share a byte, as in expanded arrays and sliding windows. Exact,
// except that the answer is yes where the search would take too long.
bool overlaps_itself(const TensorView& view);

// Whether two views share a byte. Views in each other's gaps (x[::2] and x[1::2], columns of one
// matrix) do not; the answer is yes where the search would take too long.
bool share_memory(const TensorView& first, const TensorView& second);

// Raises ValueError unless `out` either is exactly `in` (same start, shape and strides) or shares
// no byte with it.
void check_overlap(const TensorView& out, const TensorView& in, const char* operation,
                   const char* out_argument, const char* in_argument);

const char* dtype_name(DType dtype);            // "float32"
std::string shape_text(const TensorView& view); // "(2, 3)"
std::string shape_text(int ndim, const int64_t* shape);
std::string size_text(int ndim, const int64_t* shape); // "[2, 3]", as torch writes a size

} // namespace dlk
