// The element types that arrays may have.
#pragma once

#include <cstdint>

namespace dlk {

enum class DType : int32_t {
  float32,
  float64,
  bfloat16,
  float16,
  bool8,
  uint8,
  int8,
  int16,
  uint16,
  int32,
  uint32,
  int64,
  uint64,
};

// Inlined always: an out-of-line copy would be shared between ISA levels by the linker.
[[gnu::always_inline]] constexpr int64_t item_size(DType dtype) {
  switch (dtype) {
  case DType::float64:
  case DType::int64:
  case DType::uint64:
    return 8;
  case DType::float32:
  case DType::int32:
  case DType::uint32:
    return 4;
  case DType::bfloat16:
  case DType::float16:
  case DType::int16:
  case DType::uint16:
    return 2;
  default:
    return 1;
  }
}

[[gnu::always_inline]] constexpr bool is_floating(DType dtype) {
  return dtype <= DType::float16;
}

// Bytes of the type that arrays of a floating `dtype` are computed in.
[[gnu::always_inline]] constexpr int64_t compute_bytes_of(DType dtype) {
  return dtype == DType::float64 ? 8 : 4;
}

} // namespace dlk
