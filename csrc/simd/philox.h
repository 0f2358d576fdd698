// Philox 4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011): a block of four words is a function of a counter of four
// words and a key of two, so any element's number can be had at once, by any thread.
//
// Eight blocks at a time, one in each 64-bit lane: of a word only the low 32 bits count, because
// the multiplication that makes the next round reads nothing else. That is six operations a round
// with AVX-512 (two products, two shifts, two three-way exclusive ors) for 64 numbers of 16 bits.
#pragma once

#include "simd/vec.h"

namespace dlk::DLK_ISA {

constexpr int kPhiloxRounds = 10;
constexpr int kPhiloxBlocks = Vec<double>::kLanes; // at a time
constexpr int kDrawElems = 8 * kPhiloxBlocks;      // numbers of 16 bits in them

// The products of the low halves of 64-bit lanes.
DLK_INLINE IntVec<double> multiply_low_halves(IntVec<double> a, IntVec<double> b) {
  using NativeInt = LaneTraits<double>::NativeInt;
  IntVec<double> r;
#if defined(__AVX512F__)
  r.part[0] = NativeInt(_mm512_mul_epu32(__m512i(a.part[0]), __m512i(b.part[0])));
#elif defined(__AVX2__)
  DLK_PARTS(r.part[i] = NativeInt(_mm256_mul_epu32(__m256i(a.part[i]), __m256i(b.part[i])));)
#elif defined(__x86_64__)
  DLK_PARTS(r.part[i] = NativeInt(_mm_mul_epu32(__m128i(a.part[i]), __m128i(b.part[i])));)
#else
  const IntVec<double> low(0xffffffff);
  a = a & low;
  b = b & low;
  DLK_PARTS(r.part[i] = a.part[i] * b.part[i];)
#endif
  return r;
}

DLK_INLINE IntVec<double> xor3(IntVec<double> a, IntVec<double> b, IntVec<double> c) {
#if defined(__AVX512F__)
  a.part[0] = LaneTraits<double>::NativeInt(
      _mm512_ternarylogic_epi64(__m512i(a.part[0]), __m512i(b.part[0]), __m512i(c.part[0]), 0x96));
  return a;
#else
  return a ^ b ^ c;
#endif
}

// The high halves of 64-bit lanes in their low halves. With AVX-512 by a shuffle: shifts share a
// port with the multiplications there (16 K elements of a dropout: 5.15 us, 5.5 with shifts or with
// half of each); AVX2 has ports for both.
DLK_INLINE IntVec<double> high_halves(IntVec<double> a) {
#if defined(__AVX512F__)
  a.part[0] =
      LaneTraits<double>::NativeInt(_mm512_shuffle_epi32(__m512i(a.part[0]), _MM_PERM_DDBB));
  return a;
#else
  return shift_right(a, 32);
#endif
}

// Word w of block j in the low half of lane j of word[w].
struct PhiloxWords {
  IntVec<double> word[4];
};

class Philox {
public:
  explicit Philox(uint64_t key) {
    uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      low_key_[round] = IntVec<double>(int64_t(low));
      high_key_[round] = IntVec<double>(int64_t(high));
      low += 0x9e3779b9;  // the golden ratio
      high += 0xbb67ae85; // the square root of 3
    }
  }

  // The blocks of eight counters.
  DLK_INLINE PhiloxWords operator()(PhiloxWords counter) const {
    const IntVec<double> first_factor(0xd2511f53), second_factor(0xcd9e8d57);
    IntVec<double> a = counter.word[0], b = counter.word[1], c = counter.word[2],
                   d = counter.word[3];
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const IntVec<double> first = multiply_low_halves(a, first_factor);
      const IntVec<double> second = multiply_low_halves(c, second_factor);
      a = xor3(high_halves(second), b, low_key_[round]);
      b = second;
      c = xor3(high_halves(first), d, high_key_[round]);
      d = first;
    }
    return {{a, b, c, d}};
  }

private:
  IntVec<double> low_key_[kPhiloxRounds], high_key_[kPhiloxRounds];
};

// Which block a lane takes of eight consecutive ones, so that at_most() has them in order.
DLK_INLINE IntVec<double> philox_lanes() {
#if defined(__AVX512F__)
  alignas(kVecBytes) static constexpr int64_t block[8] = {0, 4, 1, 5, 2, 6, 3, 7};
#else
  alignas(kVecBytes) static constexpr int64_t block[8] = {0, 1, 2, 3, 4, 5, 6, 7};
#endif
  using NativeInt = LaneTraits<double>::NativeInt;
  constexpr int lanes = kNativeBytes / 8;
  IntVec<double> r;
  DLK_PARTS(r.part[i] = *reinterpret_cast<const NativeInt*>(block + i * lanes);)
  return r;
}

// The 64 numbers of 16 bits in eight blocks taken by philox_lanes(), in the order of memory (word
// by word, the low half first): bit i says whether number i is at most `limit`.
DLK_INLINE uint64_t at_most(const PhiloxWords& words, uint16_t limit) {
  const IntVec<double>* w = words.word;
  uint64_t bits = 0;
#if defined(__AVX512F__)
  const __m512i front = _mm512_mask_shuffle_epi32(__m512i(w[0].part[0]), 0xaaaa,
                                                  __m512i(w[1].part[0]), _MM_PERM_CCAA);
  const __m512i back = _mm512_mask_shuffle_epi32(__m512i(w[2].part[0]), 0xaaaa,
                                                 __m512i(w[3].part[0]), _MM_PERM_CCAA);
  const __m512i limits = _mm512_set1_epi16(int16_t(limit));
  bits = _mm512_cmple_epu16_mask(_mm512_unpacklo_epi64(front, back), limits);
  bits |= uint64_t(_mm512_cmple_epu16_mask(_mm512_unpackhi_epi64(front, back), limits)) << 32;
#elif defined(__AVX2__)
  const __m256i limits = _mm256_set1_epi16(int16_t(limit));
  const auto at_most_limit = [=](__m256i v) DLK_BODY {
    return _mm256_cmpeq_epi16(_mm256_min_epu16(v, limits), v);
  };
  DLK_PARTS(
      const __m256i front = _mm256_blend_epi32(__m256i(w[0].part[i]),
                                               _mm256_slli_epi64(__m256i(w[1].part[i]), 32), 0xaa);
      const __m256i back = _mm256_blend_epi32(__m256i(w[2].part[i]),
                                              _mm256_slli_epi64(__m256i(w[3].part[i]), 32), 0xaa);
      const __m256i packed = _mm256_packs_epi16(at_most_limit(_mm256_unpacklo_epi64(front, back)),
                                                at_most_limit(_mm256_unpackhi_epi64(front, back)));
      bits |= uint64_t(uint32_t(_mm256_movemask_epi8(packed))) << (32 * i);)
#elif defined(__x86_64__)
  const __m128i limits = _mm_set1_epi16(int16_t(limit));
  const auto at_most_limit = [=](__m128i v)
                                 DLK_BODY { return _mm_cmpeq_epi16(_mm_min_epu16(v, limits), v); };
  DLK_PARTS(const __m128i front = _mm_blend_epi16(__m128i(w[0].part[i]),
                                                  _mm_slli_epi64(__m128i(w[1].part[i]), 32), 0xcc);
            const __m128i back = _mm_blend_epi16(__m128i(w[2].part[i]),
                                                 _mm_slli_epi64(__m128i(w[3].part[i]), 32), 0xcc);
            const __m128i packed = _mm_packs_epi16(at_most_limit(_mm_unpacklo_epi64(front, back)),
                                                   at_most_limit(_mm_unpackhi_epi64(front, back)));
            bits |= uint64_t(uint32_t(_mm_movemask_epi8(packed))) << (16 * i);)
#else
  constexpr int lanes = kNativeBytes / 8;
  for (int block = 0; block < kPhiloxBlocks; ++block)
    for (int number = 0; number < 8; ++number) {
      const uint64_t word = uint64_t(w[number / 2].part[block / lanes][block % lanes]);
      const uint16_t value = uint16_t(number % 2 ? word >> 16 : word);
      bits |= uint64_t(value <= limit) << (8 * block + number);
    }
#endif
  return bits;
}

} // namespace dlk::DLK_ISA
