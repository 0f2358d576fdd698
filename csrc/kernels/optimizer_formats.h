// Formats of an optimizer's streams other than plain numbers, a block of at most 256 elements at a
// time, which starts on a multiple of 256: to float32 in L1, and back.
#pragma once

#include "simd/dynamic_map.h"
#include "simd/loops.h"
#include "simd/split_float.h"

namespace dlk::DLK_ISA {

DLK_INLINE IntVec<float> load_codes(const uint8_t* p, WholeVec) {
  return widen_bytes(p);
}
DLK_INLINE IntVec<float> load_codes(const uint8_t* p, PartialVec lanes) {
  uint8_t codes[Vec<float>::kLanes] = {};
  for (int64_t lane = 0; lane < lanes.count; ++lane)
    codes[lane] = p[lane];
  return widen_bytes(codes);
}
template <bool kSigned>
DLK_INLINE void store_codes(uint8_t* p, Vec<float> x, Vec<float> inverse_scale, WholeVec) {
  DynamicMap<kSigned>::store_codes(p, x, inverse_scale);
}
template <bool kSigned>
DLK_INLINE void store_codes(uint8_t* p, Vec<float> x, Vec<float> inverse_scale, PartialVec lanes) {
  uint8_t codes[Vec<float>::kLanes];
  DynamicMap<kSigned>::store_codes(codes, x, inverse_scale);
  for (int64_t lane = 0; lane < lanes.count; ++lane)
    p[lane] = codes[lane];
}

template <bool kSigned>
DLK_BLOCK void decode_block(const uint8_t* codes, float scale, int64_t size, float* block) {
  const Vec<float> scales(scale);
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    __builtin_prefetch(codes + i + 1024);
    store_lanes(block + i, DynamicMap<kSigned>::values(load_codes(codes + i, lanes)) * scales,
                lanes);
  });
}

// Returns the scale.
template <bool kSigned>
DLK_BLOCK float encode_block(const float* block, int64_t size, uint8_t* codes) {
  IntVec<float> largest(0);
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    largest = larger_magnitude(largest, load_lanes(block + i, lanes));
  });
  int32_t values[Vec<float>::kLanes], highest = 0;
  store(reinterpret_cast<float*>(values), from_bits<float>(largest));
  for (int32_t value : values)
    highest = value > highest ? value : highest;
  const BlockScale scale = block_scale(__builtin_bit_cast(float, highest));
  if (scale.inverse == 0) {
    for (int64_t i = 0; i < size; ++i)
      codes[i] = DynamicMap<kSigned>::kZeroCode;
    return scale.scale;
  }
  const Vec<float> inverse(scale.inverse);
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    store_codes<kSigned>(codes + i, load_lanes(block + i, lanes), inverse, lanes);
  });
  return scale.scale;
}

} // namespace dlk::DLK_ISA
