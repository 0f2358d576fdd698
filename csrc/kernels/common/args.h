// Arguments of kernels that belong to no family.
#pragma once

#include "core/dtype.h"

namespace dlk {

// Elementwise functions of simd/math.h by themselves: what their accuracy tests call.
struct MathFunctionArgs {
  DType dtype; // float32 or float64
  int32_t function;
  int64_t size;
  const void* input;
  void* output;
};

} // namespace dlk
