// bfloat16 and float16 to and from Vec<float>: exact up, round to nearest even down. A NaN stays a
// (quiet) NaN with its sign; float16 overflows to infinity and has subnormals.
#pragma once

#include "simd/vec.h"

namespace dlk::DLK_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What a storage type is computed in.
template <class T> struct ComputeTraits {
  using Type = T;
};
template <> struct ComputeTraits<BFloat16> {
  using Type = float;
};
template <> struct ComputeTraits<Float16> {
  using Type = float;
};
template <class T> using Compute = typename ComputeTraits<T>::Type;
template <class T> constexpr bool kIsHalf = sizeof(T) == 2;

// Sixteen 16-bit values as they lie in memory.
struct HalfLanes {
  alignas(32) uint16_t lane[16];
};

DLK_INLINE IntVec<float> widen(const uint16_t* p) {
  IntVec<float> r;
#if defined(__AVX512F__)
  using NativeInt = LaneTraits<float>::NativeInt;
  r.part[0] =
      NativeInt(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  using NativeInt = LaneTraits<float>::NativeInt;
  DLK_PARTS(r.part[i] = NativeInt(_mm256_cvtepu16_epi32(
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i))));)
#else
  DLK_PARTS(for (int lane = 0; lane < 4; ++lane) r.part[i][lane] = p[4 * i + lane];)
#endif
  return r;
}

// The low 16 bits of each lane.
DLK_INLINE void narrow(uint16_t* p, IntVec<float> v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(__m512i(v.part[0])));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32(__m256i(v.part[0]), __m256i(v.part[1]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
#else
  DLK_PARTS(for (int lane = 0; lane < 4; ++lane) p[4 * i + lane] = uint16_t(v.part[i][lane]);)
#endif
}

#if defined(__AVX512BW__)
// One permutation instead of a conversion and a shift: 16-bit lane 2 i + 1 is lane i of memory.
DLK_INLINE Vec<float> load(const BFloat16* p) {
  alignas(64) static constexpr uint16_t source[32] = {0, 0,  0, 1,  0, 2,  0, 3,  0, 4, 0,
                                                      5, 0,  6, 0,  7, 0,  8, 0,  9, 0, 10,
                                                      0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  const __m512i values =
      _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  Vec<float> r;
  r.part[0] = _mm512_castsi512_ps(
      _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(source), values));
  return r;
}
DLK_INLINE void narrow_high(uint16_t* p, IntVec<float> v) {
  alignas(64) static constexpr uint16_t source[32] = {1,  3,  5,  7,  9,  11, 13, 15,
                                                      17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i halves = _mm512_permutexvar_epi16(_mm512_load_si512(source), __m512i(v.part[0]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(halves));
}
#else
DLK_INLINE Vec<float> load(const BFloat16* p) {
  return from_bits<float>(shift_left(widen(&p->bits), 16));
}
DLK_INLINE void narrow_high(uint16_t* p, IntVec<float> v) {
  narrow(p, shift_right(v, 16));
}
#endif

DLK_INLINE void store(BFloat16* p, Vec<float> v) {
  const IntVec<float> bits = bits_of(v);
  const IntVec<float> is_odd = shift_right(bits, 16) & IntVec<float>(1);
  const IntVec<float> rounded = bits + IntVec<float>(0x7fff) + is_odd;
  const IntVec<float> quiet = bits | IntVec<float>(0x400000);
  const IntVec<float> is_nan = v != v;
  narrow_high(&p->bits, (is_nan & quiet) | ((is_nan ^ IntVec<float>(-1)) & rounded));
}

#if defined(__AVX512F__)
DLK_INLINE Vec<float> load(const Float16* p) {
  Vec<float> r;
  r.part[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return r;
}
DLK_INLINE void store(Float16* p, Vec<float> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v.part[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__AVX2__)
DLK_INLINE Vec<float> load(const Float16* p) {
  Vec<float> r;
  DLK_PARTS(r.part[i] =
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i)));)
  return r;
}
DLK_INLINE void store(Float16* p, Vec<float> v) {
  DLK_PARTS(
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * i),
                       _mm256_cvtps_ph(v.part[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));)
}
#else
// Multiplying by a power of two moves the exponent and lets the float unit handle subnormals.
DLK_INLINE Vec<float> load(const Float16* p) {
  const IntVec<float> bits = widen(&p->bits);
  const IntVec<float> sign = shift_left(bits & IntVec<float>(0x8000), 16);
  const IntVec<float> magnitude = shift_left(bits & IntVec<float>(0x7fff), 13);
  const Vec<float> finite =
      from_bits<float>(magnitude) * from_bits<float>(IntVec<float>((254 - 15) << 23));
  const IntVec<float> special = magnitude | IntVec<float>(0x7f800000);
  const Vec<float> quiet = from_bits<float>(special);
  const Vec<float> is_special_limit = from_bits<float>(IntVec<float>(0x0f800000));
  const Vec<float> value =
      select(from_bits<float>(magnitude) >= is_special_limit, quiet + quiet, finite);
  return from_bits<float>(bits_of(value) | sign);
}
[[gnu::noinline]] static uint16_t half_from_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) // NaN: quiet, payload kept
    return uint16_t(sign | 0x7e00 | ((bits >> 13) & 0x3ff));
  if (bits >= 0x477ff000) // rounds to 65536 or more
    return uint16_t(sign | 0x7c00);
  if (bits < 0x38800000) { // subnormal: adding 0.5 aligns the last kept bit with the float's
    float shifted;
    __builtin_memcpy(&shifted, &bits, 4);
    shifted += 0.5f;
    __builtin_memcpy(&bits, &shifted, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  const uint32_t odd = (bits >> 13) & 1;
  return uint16_t(sign | ((bits - 0x38000000 + 0xfff + odd) >> 13));
}
DLK_INLINE void store(Float16* p, Vec<float> v) {
  alignas(kVecBytes) float lanes[16];
  store(lanes, v);
  for (int lane = 0; lane < 16; ++lane)
    p[lane].bits = half_from_float(lanes[lane]);
}
#endif

// Half types have no masked loads below AVX-512BW; a copy of `count` of them on the stack does.
template <class T, class = decltype(T::bits)>
DLK_INLINE Vec<float> load_partial(const T* p, int64_t count, float fill = 0) {
  alignas(32) T lanes[16];
  const Vec<float> fills(fill);
  store(lanes, fills);
  for (int64_t lane = 0; lane < count; ++lane)
    lanes[lane] = p[lane];
  return load(lanes);
}
template <class T, class = decltype(T::bits)>
DLK_INLINE void store_partial(T* p, Vec<float> v, int64_t count) {
  alignas(32) T lanes[16];
  store(lanes, v);
  for (int64_t lane = 0; lane < count; ++lane)
    p[lane] = lanes[lane];
}

// Past the cache; p is 32-byte aligned, and two calls fill a line.
template <class T, class = decltype(T::bits)> DLK_INLINE void stream(T* p, Vec<float> v) {
#if defined(__AVX2__)
  alignas(32) T lanes[16];
  store(lanes, v);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes)));
#else
  store(p, v);
#endif
}

// One element to and from its compute type.
template <class T> DLK_INLINE Compute<T> load_scalar(const T* p) {
  if constexpr (kIsHalf<T>)
    return load_partial(p, 1).part[0][0];
  else
    return *p;
}
template <class T> DLK_INLINE void store_scalar(T* p, Compute<T> value) {
  if constexpr (kIsHalf<T>)
    store_partial(p, Vec<float>(value), 1);
  else
    *p = value;
}

// Calls f with a value of the storage type that `dtype` names.
template <class F> DLK_INLINE void with_storage_type(DType dtype, F f) {
  switch (dtype) {
  case DType::float32:
    return f(float{});
  case DType::float64:
    return f(double{});
  case DType::bfloat16:
    return f(BFloat16{});
  default:
    return f(Float16{});
  }
}

} // namespace dlk::DLK_ISA
