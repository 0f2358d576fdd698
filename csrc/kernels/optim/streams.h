// Streams of an optimizer's arrays as blocks in the type of computation: read, each element
// widened, and written, each rounded once, whatever dtype, stride and format a stream has.
#pragma once

#include "kernels/optim/formats.h"

namespace dlk::DLK_ISA {

template <class C> constexpr DType kDTypeOf = sizeof(C) == 8 ? DType::float64 : DType::float32;

// Element `first` of a stream.
DLK_INLINE char* stream_address(const OptimizerArray& array, const OptimizerLayout& layout,
                                int stream, int64_t first) {
  return static_cast<char*>(array.streams[stream]) +
         first * layout.strides[stream] * item_size(layout.dtypes[stream]);
}

// Whether the rule can work on the stream in its own memory.
template <class C> DLK_INLINE bool is_in_place(const OptimizerLayout& layout, int stream) {
  return layout.formats[stream] == StreamFormat::plain && layout.dtypes[stream] == kDTypeOf<C> &&
         layout.strides[stream] == 1;
}

// `size` elements of one stream, from `first`, at most a block, which starts on a multiple of
// kOptimizerBlock in its array.
template <class C>
DLK_BLOCK void read_plain_block(const OptimizerArray& array, const OptimizerLayout& layout,
                                int stream, int64_t first, int64_t size, C* block) {
  with_storage_type(layout.dtypes[stream], [&](auto type) DLK_BODY {
    using T = decltype(type);
    using Wide = Compute<T>;
    T gathered[kOptimizerBlock];
    const void* address = stream_address(array, layout, stream, first);
    const T* source =
        side_by_side(static_cast<const T*>(address), layout.strides[stream], size, gathered);
    alignas(kVecBytes) Wide wide[kOptimizerBlock];
    for_each_vec<Wide>(size, [&](int64_t i, auto lanes) DLK_BODY {
      if constexpr (sizeof(Wide) == sizeof(C))
        store_lanes(block + i, load_lanes(source + i, lanes), lanes);
      else
        store_lanes(wide + i, load_lanes(source + i, lanes), lanes);
    });
    if constexpr (sizeof(Wide) != sizeof(C))
      for (int64_t i = 0; i < size; ++i)
        block[i] = C(wide[i]);
  });
}

template <class C>
DLK_BLOCK void write_plain_block(const C* block, const OptimizerArray& array,
                                 const OptimizerLayout& layout, int stream, int64_t first,
                                 int64_t size) {
  with_storage_type(layout.dtypes[stream], [&](auto type) DLK_BODY {
    using T = decltype(type);
    using Wide = Compute<T>;
    T scattered[kOptimizerBlock];
    void* address = stream_address(array, layout, stream, first);
    T* const target = static_cast<T*>(address);
    T* const rounded = layout.strides[stream] == 1 ? target : scattered;
    alignas(kVecBytes) Wide wide[kOptimizerBlock];
    if constexpr (sizeof(Wide) != sizeof(C))
      for (int64_t i = 0; i < size; ++i)
        wide[i] = Wide(block[i]);
    for_each_vec<Wide>(size, [&](int64_t i, auto lanes) DLK_BODY {
      if constexpr (sizeof(Wide) == sizeof(C))
        store_lanes(rounded + i, load_lanes(block + i, lanes), lanes);
      else
        store_lanes(rounded + i, load_lanes(wide + i, lanes), lanes);
    });
    if (rounded != target)
      scatter(rounded, target, layout.strides[stream], size);
  });
}

// Blocks of the other formats, which are float32 to the rule.
DLK_BLOCK inline void read_coded_block(const OptimizerArray& array, const OptimizerLayout& layout,
                                       int stream, int64_t first, int64_t size, float* block) {
  const char* address = stream_address(array, layout, stream, first);
  const void* aux = array.aux[stream];
  const auto* codes = reinterpret_cast<const uint8_t*>(address);
  const float* scale = static_cast<const float*>(aux) + first / kScaleBlock;
  switch (layout.formats[stream]) {
  case StreamFormat::signed_codes:
    return decode_block<true>(codes, *scale, size, block);
  case StreamFormat::unsigned_codes:
    return decode_block<false>(codes, *scale, size, block);
  default:
    return join_block(reinterpret_cast<const BFloat16*>(address), layout.strides[stream],
                      static_cast<const uint16_t*>(aux) + first * layout.low_stride,
                      layout.low_stride, size, block);
  }
}

DLK_BLOCK inline void write_coded_block(const float* block, const OptimizerArray& array,
                                        const OptimizerLayout& layout,
                                        const OptimizerSetting& setting, int stream, int64_t first,
                                        int64_t size) {
  char* address = stream_address(array, layout, stream, first);
  void* aux = array.aux[stream];
  auto* codes = reinterpret_cast<uint8_t*>(address);
  float* scale = static_cast<float*>(aux) + first / kScaleBlock;
  switch (layout.formats[stream]) {
  case StreamFormat::signed_codes:
    *scale = encode_block<true>(block, size, codes);
    return;
  case StreamFormat::unsigned_codes:
    *scale = encode_block<false>(block, size, codes);
    return;
  case StreamFormat::random:
    return round_block(block, reinterpret_cast<BFloat16*>(address), layout.strides[stream],
                       array.offset + first, size, setting.seed, setting.step,
                       uint32_t(array.number) * kOptimizerStreams + uint32_t(stream));
  default:
    return split_block(block, reinterpret_cast<BFloat16*>(address), layout.strides[stream],
                       static_cast<uint16_t*>(aux) + first * layout.low_stride, layout.low_stride,
                       size);
  }
}

// `size` elements of one stream, from `first`, at most a block, which starts on a multiple of
// kOptimizerBlock in its array.
template <class C>
DLK_INLINE void read_block(const OptimizerArray& array, const OptimizerLayout& layout, int stream,
                           int64_t first, int64_t size, C* block) {
  const StreamFormat format = layout.formats[stream];
  if (format == StreamFormat::plain || format == StreamFormat::random)
    return read_plain_block(array, layout, stream, first, size, block);
  if constexpr (sizeof(C) == sizeof(float)) {
    read_coded_block(array, layout, stream, first, size, block);
  } else {
    alignas(kVecBytes) float narrow[kOptimizerBlock];
    read_coded_block(array, layout, stream, first, size, narrow);
    for (int64_t i = 0; i < size; ++i)
      block[i] = C(narrow[i]);
  }
}

template <class C>
DLK_INLINE void write_block(const C* block, const OptimizerArray& array,
                            const OptimizerLayout& layout, const OptimizerSetting& setting,
                            int stream, int64_t first, int64_t size) {
  if (layout.formats[stream] == StreamFormat::plain)
    return write_plain_block(block, array, layout, stream, first, size);
  if constexpr (sizeof(C) == sizeof(float)) {
    write_coded_block(block, array, layout, setting, stream, first, size);
  } else {
    alignas(kVecBytes) float narrow[kOptimizerBlock];
    for (int64_t i = 0; i < size; ++i)
      narrow[i] = float(block[i]);
    write_coded_block(narrow, array, layout, setting, stream, first, size);
  }
}

} // namespace dlk::DLK_ISA
