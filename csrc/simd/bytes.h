// uint8 to and from Vec<float> and Vec<double>, and the bytes of pixels taken apart.
#pragma once

#include "simd/vec.h"

namespace dlk::DLK_ISA {

template <class C> DLK_INLINE Vec<C> load_bytes(const uint8_t* p) {
  Vec<C> r;
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    r.part[0] = _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    return r;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4) {
    DLK_PARTS(r.part[i] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(
                  _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * i))));)
    return r;
  }
#endif
  constexpr int lanes = kNativeBytes / sizeof(C);
  DLK_PARTS(for (int lane = 0; lane < lanes; ++lane) r.part[i][lane] = C(p[i * lanes + lane]);)
  return r;
}

// To the nearest even whole number in [0, 255]. Added to `shift`, a number has its whole part in
// the lowest bits. max() has its second operand of a NaN: 0.
template <class C> DLK_INLINE void store_bytes(uint8_t* p, Vec<C> v, int64_t count) {
  constexpr C shift = sizeof(C) == 4 ? C(12582912.0) : C(6755399441055744.0); // 1.5 * 2^23, 2^52
  const Vec<C> whole = min(max(v, Vec<C>(0)), Vec<C>(255)) + Vec<C>(shift);
  alignas(kVecBytes) C lanes[Vec<C>::kLanes];
  store(lanes, from_bits<C>(bits_of(whole) & IntVec<C>(255)));
  for (int64_t lane = 0; lane < count; ++lane)
    __builtin_memcpy(p + lane, lanes + lane, 1); // little endian
}

#if defined(__x86_64__)
// Three channels of bytes to planes of bytes, 16 pixels at a time: of each plane some bytes lie in
// each of three vectors. In the tables x gives 0.
inline void to_byte_planes(const uint8_t* from, uint8_t* to, int64_t pixels) {
  constexpr char x = -1;
  const __m128i tables[3][3] = {{_mm_setr_epi8(0, 3, 6, 9, 12, 15, x, x, x, x, x, x, x, x, x, x),
                                 _mm_setr_epi8(x, x, x, x, x, x, 2, 5, 8, 11, 14, x, x, x, x, x),
                                 _mm_setr_epi8(x, x, x, x, x, x, x, x, x, x, x, 1, 4, 7, 10, 13)},
                                {_mm_setr_epi8(1, 4, 7, 10, 13, x, x, x, x, x, x, x, x, x, x, x),
                                 _mm_setr_epi8(x, x, x, x, x, 0, 3, 6, 9, 12, 15, x, x, x, x, x),
                                 _mm_setr_epi8(x, x, x, x, x, x, x, x, x, x, x, 2, 5, 8, 11, 14)},
                                {_mm_setr_epi8(2, 5, 8, 11, 14, x, x, x, x, x, x, x, x, x, x, x),
                                 _mm_setr_epi8(x, x, x, x, x, 1, 4, 7, 10, 13, x, x, x, x, x, x),
                                 _mm_setr_epi8(x, x, x, x, x, x, x, x, x, x, 0, 3, 6, 9, 12, 15)}};
  int64_t p = 0;
  for (; p + 16 <= pixels; p += 16) {
    const __m128i* in = reinterpret_cast<const __m128i*>(from + 3 * p);
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1), c = _mm_loadu_si128(in + 2);
    for (int plane = 0; plane < 3; ++plane) {
      const __m128i* table = tables[plane];
      const __m128i bytes =
          _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, table[0]), _mm_shuffle_epi8(b, table[1])),
                       _mm_shuffle_epi8(c, table[2]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + plane * pixels + p), bytes);
    }
  }
  for (; p < pixels; ++p)
    for (int plane = 0; plane < 3; ++plane)
      to[plane * pixels + p] = from[3 * p + plane];
}
#else
inline void to_byte_planes(const uint8_t* from, uint8_t* to, int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p)
    for (int plane = 0; plane < 3; ++plane)
      to[plane * pixels + p] = from[3 * p + plane];
}
#endif

} // namespace dlk::DLK_ISA
