// Formats of an optimizer's streams other than plain numbers, a block of at most 256 elements at a
// time, which starts on a multiple of 256: to float32 in L1, and back.
#pragma once

#include "kernels/optim/args.h"
#include "simd/dynamic_map.h"
#include "simd/loops.h"
#include "simd/split_float.h"

namespace dlk::DLK_ISA {

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

DLK_INLINE IntVec<float> load_low(const uint16_t* p, WholeVec) {
  return widen(p);
}
DLK_INLINE IntVec<float> load_low(const uint16_t* p, PartialVec lanes) {
  uint16_t halves[Vec<float>::kLanes] = {};
  for (int64_t lane = 0; lane < lanes.count; ++lane)
    halves[lane] = p[lane];
  return widen(halves);
}
DLK_INLINE void store_split(BFloat16* high, uint16_t* low, Vec<float> x, WholeVec) {
  split_halves(high, low, x);
}
DLK_INLINE void store_split(BFloat16* high, uint16_t* low, Vec<float> x, PartialVec lanes) {
  BFloat16 highs[Vec<float>::kLanes];
  uint16_t lows[Vec<float>::kLanes];
  split_halves(highs, lows, x);
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    high[lane] = highs[lane];
    low[lane] = lows[lane];
  }
}
DLK_INLINE void store_random(BFloat16* p, Vec<float> x, const uint16_t* noise, WholeVec) {
  store_at_random(p, x, widen(noise));
}
// `noise` may be read beyond what counts.
DLK_INLINE void store_random(BFloat16* p, Vec<float> x, const uint16_t* noise, PartialVec lanes) {
  BFloat16 rounded[Vec<float>::kLanes];
  store_at_random(rounded, x, widen(noise));
  for (int64_t lane = 0; lane < lanes.count; ++lane)
    p[lane] = rounded[lane];
}

template <bool kSigned>
DLK_BLOCK void decode_block(const uint8_t* codes, float scale, int64_t size, float* block) {
  const Vec<float> scales(scale);
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    store_lanes(block + i, DynamicMap<kSigned>::values(load_codes(codes + i, lanes)) * scales,
                lanes);
  });
}

// Returns the scale. `largest`: of the magnitudes in each lane.
template <bool kSigned>
DLK_INLINE float encode_block(const float* block, int64_t size, IntVec<float> largest,
                              uint8_t* codes) {
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

template <bool kSigned>
DLK_BLOCK float encode_block(const float* block, int64_t size, uint8_t* codes) {
  IntVec<float> largest(0);
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    largest = larger_magnitude(largest, load_lanes(block + i, lanes));
  });
  return encode_block<kSigned>(block, size, largest, codes);
}

// Block of a split float32; strides in elements.
DLK_BLOCK inline void join_block(const BFloat16* high, int64_t high_stride, const uint16_t* low,
                                 int64_t low_stride, int64_t size, float* block) {
  BFloat16 high_gathered[kOptimizerBlock];
  uint16_t low_gathered[kOptimizerBlock];
  high = side_by_side(high, high_stride, size, high_gathered);
  low = side_by_side(low, low_stride, size, low_gathered);
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    store_lanes(block + i, join_halves(load_lanes(high + i, lanes), load_low(low + i, lanes)),
                lanes);
  });
}

DLK_BLOCK inline void split_block(const float* block, BFloat16* high, int64_t high_stride,
                                  uint16_t* low, int64_t low_stride, int64_t size) {
  BFloat16 high_scattered[kOptimizerBlock];
  uint16_t low_scattered[kOptimizerBlock];
  BFloat16* const highs = high_stride == 1 ? high : high_scattered;
  uint16_t* const lows = low_stride == 1 ? low : low_scattered;
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    store_split(highs + i, lows + i, load_lanes(block + i, lanes), lanes);
  });
  if (highs != high)
    scatter(highs, high, high_stride, size);
  if (lows != low)
    scatter(lows, low, low_stride, size);
}

// Rounds a block at random; `element` is the first one's number among those of the parameter.
DLK_BLOCK inline void round_block(const float* block, BFloat16* target, int64_t stride,
                                  int64_t element, int64_t size, uint64_t seed, uint32_t step,
                                  uint32_t stream) {
  alignas(kVecBytes) uint16_t noise[kOptimizerBlock + 2 * kNoiseElems];
  const int64_t before = element % kNoiseElems;
  const Philox philox(seed);
  for (int64_t i = 0; i < before + size; i += kNoiseElems)
    draw_noise(philox, element - before + i, step, stream, noise + i);
  BFloat16 scattered[kOptimizerBlock];
  BFloat16* const rounded = stride == 1 ? target : scattered;
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    store_random(rounded + i, load_lanes(block + i, lanes), noise + before + i, lanes);
  });
  if (rounded != target)
    scatter(rounded, target, stride, size);
}

} // namespace dlk::DLK_ISA
