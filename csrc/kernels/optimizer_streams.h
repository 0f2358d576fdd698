// Streams of an optimizer's arrays as blocks in the type of computation: read, each element
// widened, and written, each rounded once, whatever dtype, stride and format a stream has.
#pragma once

#include "simd/loops.h"

namespace dlk::DLK_ISA {

template <class C> constexpr DType kDTypeOf = sizeof(C) == 8 ? DType::float64 : DType::float32;

// The hardware's prefetcher keeps each of several streams too short a way ahead: 8 % of a step over
// 50 M elements.
template <class T> DLK_INLINE void fetch_ahead(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 2048);
}

// Element `first` of a stream.
DLK_INLINE char* stream_address(const OptimizerArray& array, const OptimizerLayout& layout,
                                int stream, int64_t first) {
  return static_cast<char*>(array.streams[stream]) +
         first * layout.strides[stream] * item_size(layout.dtypes[stream]);
}

// Whether the rule can work on the stream where it lies.
template <class C> DLK_INLINE bool is_in_place(const OptimizerLayout& layout, int stream) {
  return layout.formats[stream] == StreamFormat::plain &&
         layout.dtypes[stream] == kDTypeOf<C> && layout.strides[stream] == 1;
}

// `size` elements, at most a block, side by side; in `buffer` if they are not so in memory.
template <class T>
DLK_INLINE const T* side_by_side(const T* source, int64_t stride, int64_t size, T* buffer) {
  if (stride == 1)
    return source;
  for (int64_t i = 0; i < size; ++i)
    buffer[i] = source[i * stride];
  return buffer;
}

template <class T>
DLK_INLINE void scatter(const T* source, T* target, int64_t stride, int64_t size) {
  for (int64_t i = 0; i < size; ++i)
    target[i * stride] = source[i];
}

// `size` elements of one stream, from `first`, at most a block, which starts on a multiple of
// kOptimizerBlock in its array.
template <class C>
DLK_BLOCK void read_block(const OptimizerArray& array, const OptimizerLayout& layout, int stream,
                          int64_t first, int64_t size, C* block) {
  with_storage_type(layout.dtypes[stream], [&](auto type) DLK_BODY {
    using T = decltype(type);
    using Wide = Compute<T>;
    T gathered[kOptimizerBlock];
    const void* address = stream_address(array, layout, stream, first);
    const T* source =
        side_by_side(static_cast<const T*>(address), layout.strides[stream], size, gathered);
    alignas(kVecBytes) Wide wide[kOptimizerBlock];
    for_each_vec<Wide>(size, [&](int64_t i, auto lanes) DLK_BODY {
      fetch_ahead(source + i);
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
DLK_BLOCK void write_block(const C* block, const OptimizerArray& array,
                           const OptimizerLayout& layout, int stream, int64_t first, int64_t size) {
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

} // namespace dlk::DLK_ISA
