// Which elements a dropout keeps.
//
// Element e of an array, counted as if it were row-major, has number e % 8 (16 bits) of Philox
// block e / 8 (counter words 0 and 1; words 2 and 3 are 0) under the seed as key. It is kept where
// that number is at most `limit`: a fraction of (limit + 1) / 65536, which is 1 - p to within
// 2^-17. With a factor of 0 none is.
#pragma once

#include "kernels/dropout/args.h"
#include "simd/loops.h"
#include "simd/philox.h"

namespace dlk::DLK_ISA {

class KeepMask {
public:
  KeepMask(uint64_t seed, uint16_t limit, double factor)
      : random_(seed), limit_(limit), some_(factor == 0 ? 0 : ~uint64_t{0}) {}

  // The second counter word of the elements around `index`: the same for 2^35 of them, so that a
  // loop over a chunk makes what follows from it once.
  DLK_INLINE IntVec<double> high_word(int64_t index) const {
    return IntVec<double>((index / 8) >> 32);
  }

  // Bits of the elements [first, first + 64), whose high_word() is `high`; `first` is a multiple of
  // 64.
  DLK_INLINE uint64_t aligned(int64_t first, IntVec<double> high) const {
    const IntVec<double> block = IntVec<double>(first / 8) + philox_lanes(), zero(0);
    return at_most(random_(PhiloxWords{{block, high, zero, zero}}), limit_) & some_;
  }

  // The same, not inlined: for what is not a long loop.
  DLK_BLOCK uint64_t one(int64_t first) const { return aligned(first, high_word(first)); }

  // Bits of `count` elements from any first one, 64 a word.
  DLK_BLOCK void draw(uint64_t* words, int64_t first, int64_t count) const {
    const int shift = int(first % kDrawElems);
    int64_t next = first - shift;
    uint64_t current = one(next);
    for (int64_t done = 0; done < count; done += kDrawElems, ++words) {
      *words = current >> shift;
      if (shift == 0 ? done + kDrawElems >= count : done + kDrawElems - shift >= count)
        return;
      next += kDrawElems;
      current = one(next);
      if (shift)
        *words |= current << (kDrawElems - shift);
    }
  }

private:
  Philox random_;
  uint16_t limit_;
  uint64_t some_;
};

// `kept` in the lanes whose bit is set, else `dropped`.
template <class T> DLK_INLINE Vec<T> choose(uint32_t bits, Vec<T> kept, Vec<T> dropped) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    kept.part[0] = _mm512_mask_blend_ps(__mmask16(bits), dropped.part[0], kept.part[0]);
  else
    kept.part[0] = _mm512_mask_blend_pd(__mmask8(bits), dropped.part[0], kept.part[0]);
  return kept;
#else
  return select(mask_from_bits<T>(bits), kept, dropped);
#endif
}

// `kept` in the lanes whose bit is set, else 0.
template <class T> DLK_INLINE Vec<T> keep(uint32_t bits, Vec<T> kept) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    kept.part[0] = _mm512_maskz_mov_ps(__mmask16(bits), kept.part[0]);
  else
    kept.part[0] = _mm512_maskz_mov_pd(__mmask8(bits), kept.part[0]);
  return kept;
#else
  return from_bits<T>(mask_from_bits<T>(bits) & bits_of(kept));
#endif
}

// body(index, lanes, bits) over [begin, end), a chunk or a part of one, in whole vectors, then a
// partial one; `begin` is a multiple of 64. The lowest bits are those of the vector's lanes: read
// from `kept_in` if there is one, else drawn, and written to `kept_out` if there is one. `Whole` is
// WholeVec or StreamedVec.
template <class T, class Whole, class Body>
DLK_INLINE void for_each_drawn(const KeepMask& mask, const uint64_t* kept_in, uint64_t* kept_out,
                               int64_t begin, int64_t end, Body&& body) {
  constexpr int lanes = Vec<T>::kLanes;
  const IntVec<double> high = mask.high_word(begin);
  int64_t index = begin;
  for (; index + kDrawElems <= end; index += kDrawElems) {
    const uint64_t bits = kept_in ? kept_in[index / kDrawElems] : mask.aligned(index, high);
    if (kept_out)
      kept_out[index / kDrawElems] = bits;
#pragma GCC unroll 8
    for (int at = 0; at < kDrawElems; at += lanes)
      body(index + at, Whole{}, uint32_t(bits >> at));
  }
  if (index >= end)
    return;
  uint64_t bits = kept_in ? kept_in[index / kDrawElems] : mask.one(index);
  if (kept_out)
    kept_out[index / kDrawElems] = bits;
  for (; index + lanes <= end; index += lanes, bits >>= lanes)
    body(index, Whole{}, uint32_t(bits));
  if (index < end)
    body(index, PartialVec{end - index}, uint32_t(bits));
}

} // namespace dlk::DLK_ISA
