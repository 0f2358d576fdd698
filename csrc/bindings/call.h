// What every binding does around a kernel: common checks, the GIL, memory.
#pragma once

#include "bindings/tensor.h"
#include "runtime/dispatch.h"

#include <new>

namespace dlk {

// Below this much work, giving the GIL up costs more than it lets others do.
constexpr int64_t kReleaseGilElems = 8192;

template <class Function> void without_gil(int64_t work_elems, Function function) {
  if (work_elems < kReleaseGilElems)
    return function();
  py::gil_scoped_release release;
  function();
}

template <class Pointer> Pointer allocated(Pointer data, size_t bytes) {
  if (!data && bytes)
    throw std::bad_alloc();
  return data;
}

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

inline void check_floating(const TensorView& view, const char* operation, const char* argument) {
  DLK_CHECK_TYPE(is_floating(view.dtype), operation, ": ", argument,
                 ": expected a floating dtype (float32, float64, bfloat16, float16), got ",
                 dtype_name(view.dtype));
}

inline void check_same_dtype(const TensorView& view, const TensorView& as, const char* operation,
                             const char* argument) {
  DLK_CHECK_TYPE(view.dtype == as.dtype, operation, ": ", argument, ": expected dtype ",
                 dtype_name(as.dtype), ", got ", dtype_name(view.dtype));
}

} // namespace dlk
