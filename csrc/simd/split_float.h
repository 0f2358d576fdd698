// float32 in sixteen bits: rounded at random to bfloat16, or split into a bfloat16 and what it
// lacks, so that the pair is the float32.
#pragma once

#include "simd/half.h"
#include "simd/philox.h"

namespace dlk::DLK_ISA {

constexpr int64_t kNoiseElems = kDrawElems; // numbers of one draw
constexpr uint32_t kLargestBFloat16 = 0x7f7f0000;

// The numbers of elements [first, first + 64) of one state at one step, each of 16 bits. Element
// first + r has, of block 8 * (first / 64) + r % 32 / 4, half r % 2 of word r / 32 * 2 + r % 4 / 2.
// A function of its arguments alone. `first` is a multiple of 64.
DLK_INLINE void draw_noise(const Philox& philox, int64_t first, uint32_t step, uint32_t stream,
                           uint16_t* noise) {
  alignas(kVecBytes) static constexpr int64_t lanes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  IntVec<double> block;
  constexpr int native = kNativeBytes / 8;
  DLK_PARTS(block.part[i] =
                *reinterpret_cast<const LaneTraits<double>::NativeInt*>(lanes + i * native);)
  const int64_t index = first / 8;
  const PhiloxWords words =
      philox({{block + IntVec<double>(index & 0xffffffff), IntVec<double>(index >> 32),
               IntVec<double>(int64_t(step)), IntVec<double>(int64_t(stream))}});
  const IntVec<double> low(0xffffffff);
  for (int pair = 0; pair < 2; ++pair)
    store(
        reinterpret_cast<double*>(noise) + 8 * pair,
        from_bits<double>((words.word[2 * pair] & low) | shift_left(words.word[2 * pair + 1], 32)));
}

// Up with the probability of what is cut off, so the mean of many is x. A bfloat16 stays what it
// is, and so do NaN and infinity; a finite x above the largest bfloat16 becomes that.
DLK_INLINE void store_at_random(BFloat16* p, Vec<float> x, IntVec<float> noise) {
  const Vec<float> largest = from_bits<float>(IntVec<float>(int32_t(kLargestBFloat16)));
  const Vec<float> infinity = from_bits<float>(IntVec<float>(0x7f800000));
  const Vec<float> magnitude = abs(x);
  const IntVec<float> bits = bits_of(min(magnitude, largest)) + noise;
  const IntVec<float> sign = bits_of(x) & IntVec<float>(INT32_MIN);
  const IntVec<float> quiet = bits_of(x) | shift_left(IntVec<float>(x != x) & IntVec<float>(1), 22);
  narrow_high(&p->bits, bits_of(select(magnitude < infinity, from_bits<float>(bits | sign),
                                       from_bits<float>(quiet))));
}

// The float32 that a bfloat16 and its low half are.
DLK_INLINE Vec<float> join_halves(Vec<float> high, IntVec<float> low) {
  // As a signed number: the high half is rounded up where that is nearer.
  const IntVec<float> extended = (low ^ IntVec<float>(0x8000)) - IntVec<float>(0x8000);
  return from_bits<float>(bits_of(high) + extended);
}

// The nearest bfloat16, at the middle the one away from zero (to even, a bfloat16 would be half of
// 65537 numbers, one more than a low half can tell apart), and the rest. Infinities have a low half
// of 0, and so has NaN, which becomes the quiet one of its sign. A number above the largest
// bfloat16 has an infinite high half and stays what it is.
DLK_INLINE void split_halves(BFloat16* high, uint16_t* low, Vec<float> x) {
  const IntVec<float> sign = bits_of(x) & IntVec<float>(INT32_MIN);
  const IntVec<float> bits =
      bits_of(select(x != x, from_bits<float>(sign | IntVec<float>(0x7fc00000)), x));
  narrow_high(&high->bits, bits + IntVec<float>(0x8000));
  narrow(low, bits & IntVec<float>(0xffff));
}

} // namespace dlk::DLK_ISA
