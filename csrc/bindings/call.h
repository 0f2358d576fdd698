// What every binding does around a kernel: common checks, the GIL, memory.
#pragma once

#include "bindings/arrays/tensor.h"
#include "bindings/gil.h"
#include "bindings/torch_internals/profiled_range.h"
#include "runtime/dispatch.h"
#include "runtime/pool.h"

#include <cmath>
#include <limits>
#include <new>

namespace dlk {

// Below this much work, giving the GIL up costs more than it lets others do.
constexpr int64_t kReleaseGilElems = 8192;

// Runs a kernel; torch's profiler, if it runs, sees it as "dlkernels::" and the operation's name.
template <class Function>
void without_gil(const char* operation, int64_t work_elems, Function function) {
  const ProfiledRange range(operation);
  if (work_elems < kReleaseGilElems)
    return function();
  with_gil_released(function);
}

// Memory for `count` values, as long as a call lasts.
template <class T> class Scratch {
public:
  explicit Scratch(int64_t count) : buffer_(size_t(count) * sizeof(T)) {
    if (!buffer_.data() && count)
      throw std::bad_alloc();
  }
  T* data() const { return static_cast<T*>(buffer_.data()); }

private:
  runtime::ScopedBuffer buffer_;
};

inline bool writes_past_cache(int64_t bytes) {
  return bytes > runtime::last_level_cache_bytes() / 2;
}

inline bool same_shape(const TensorView& a, const TensorView& b) {
  if (a.ndim != b.ndim)
    return false;
  for (int dim = 0; dim < a.ndim; ++dim)
    if (a.shape[dim] != b.shape[dim])
      return false;
  return true;
}

// The same place for each element: strides of dimensions of one element do not matter.
inline bool same_strides(const TensorView& a, const TensorView& b) {
  for (int dim = 0; dim < a.ndim; ++dim)
    if (a.shape[dim] != 1 && a.strides[dim] != b.strides[dim])
      return false;
  return true;
}

inline void check_floating(const TensorView& view, const char* operation, const char* argument) {
  DLK_CHECK_TYPE(is_floating(view.dtype), operation, ": ", argument,
                 ": expected a floating dtype (float32, float64, bfloat16, float16), got ",
                 dtype_name(view.dtype));
}

// An axis that may be counted from the end. IndexError with torch's text.
inline int wrapped_axis(int64_t axis, int ndim) {
  const int64_t dims = ndim ? ndim : 1;
  DLK_CHECK_INDEX(axis >= -dims && axis < dims,
                  "Dimension out of range (expected to be in range of [", -dims, ", ", dims - 1,
                  "], but got ", axis, ")");
  return int(axis < 0 ? axis + dims : axis);
}

// A number that a kernel takes in the type it computes in, float32 but for float64 arrays: that
// must hold it, neither as infinity nor as 0; with `divides` its inverse too.
inline void check_holds(double value, DType dtype, const char* operation, const char* argument,
                        bool divides = false) {
  constexpr double most = std::numeric_limits<float>::max();
  if (dtype == DType::float64 || value == 0 || !std::isfinite(value))
    return;
  const double least = divides ? 1 / most : double(std::numeric_limits<float>::denorm_min());
  DLK_CHECK(std::abs(value) <= most && std::abs(value) >= least, operation, ": ", argument,
            ": expected a number that float32 can hold", divides ? ", and its inverse too" : "",
            " (0, or from ", least, " to ", most, "), got ", value);
}

inline void check_same_dtype(const TensorView& view, const TensorView& as, const char* operation,
                             const char* argument) {
  DLK_CHECK_TYPE(view.dtype == as.dtype, operation, ": ", argument, ": expected dtype ",
                 dtype_name(as.dtype), ", got ", dtype_name(view.dtype));
}

// Raises unless `view` has the shape and the dtype of `as`.
inline void check_like(const TensorView& view, const TensorView& as, const char* operation,
                       const char* argument) {
  DLK_CHECK(same_shape(view, as), operation, ": ", argument, ": expected shape ", shape_text(as),
            ", got ", shape_text(view));
  check_same_dtype(view, as, operation, argument);
}

} // namespace dlk
