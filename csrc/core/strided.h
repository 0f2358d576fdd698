// Views of strided arrays, and how work over them is cut.
#pragma once

#include <cstdint>

namespace dlk {

// An array seen as (batch, class, position): element (b, c, s) lies at
// data + (b * batch_stride + c * class_stride + s * position_stride) elements.
struct ClassArray {
  void* data = nullptr;
  int64_t batch_stride = 0, class_stride = 0, position_stride = 0;
};

// Functions here are inlined always: the linker would share an out-of-line copy between ISA levels.

// Of class 0 at a position.
[[gnu::always_inline]] constexpr int64_t element_offset(const ClassArray& a, int64_t batch,
                                                        int64_t position) {
  return batch * a.batch_stride + position * a.position_stride;
}

// How many chunks of `chunk` elements `total` elements take.
[[gnu::always_inline]] constexpr int64_t chunk_count(int64_t total, int64_t chunk) {
  return (total + chunk - 1) / chunk;
}

} // namespace dlk
