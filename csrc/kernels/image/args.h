// Arguments of image normalization.
#pragma once

#include "core/dtype.h"
#include "core/strided.h"

namespace dlk {

// Images as (image, row, column, channel), times and plus a number per channel, into another layout
// or type. Strides are in elements.
struct ImageLayout {
  void* data = nullptr;
  DType dtype = DType::float32; // floating or uint8
  int64_t image_stride = 0, row_stride = 0;
  int64_t plane_stride = 0; // of a channel's plane; 0: the channels of a pixel are adjacent
};

struct ImageAffineArgs {
  int64_t images, rows, columns, channels;
  ImageLayout input, output;
  // [channels * repeats] of float (of double if an array is float64): the channels' own, `repeats`
  // times over.
  const void* factor;
  const void* shift;
  int64_t repeats;
  bool nontemporal = false;
};

// A block of pixels, all channels of it; so many channels at most.
constexpr int64_t kImageBlockElems = 4096, kImageBlockPixels = 512;

} // namespace dlk
