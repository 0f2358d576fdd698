// Vec<T>: 16 lanes of float or 8 of double on every ISA level, a struct of as many native vectors
// as that takes (1 zmm, 2 ymm, 4 xmm). The same number of lanes everywhere gives a reduction the
// same shape everywhere, so AVX2 and AVX-512 agree to the bit. (One 64-byte vector_size type would
// be shorter; GCC 12 makes it three times slower on AVX2.)
//
// Operations are elementwise and in order; fma(a, b, c) is one rounding on AVX2 and AVX-512 and two
// on baseline, which has no such instruction. max and min return their SECOND operand when either
// is NaN, as x86 does: max(bound, x) keeps a NaN in x.
#pragma once

#include "core/dtype.h"

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef DLK_ISA
#error "DLK_ISA names the level this file is compiled for"
#endif

#define DLK_INLINE inline __attribute__((always_inline))
// For a function that does a whole block: called once per thousands of elements, and compiled once
// instead of into every caller.
#define DLK_BLOCK __attribute__((noinline))
// After a lambda's parameters: a loop body must be inlined for its accumulators to stay in
// registers.
#define DLK_BODY __attribute__((always_inline))

namespace dlk::DLK_ISA {

#if defined(__AVX512F__)
constexpr int kNativeBytes = 64;
// Runs the statement once for each native part i of a Vec; written out, so that the struct stays in
// registers.
#define DLK_PARTS(...)                                                                             \
  {                                                                                                \
    constexpr int i = 0;                                                                           \
    __VA_ARGS__                                                                                    \
  }
#elif defined(__AVX2__)
constexpr int kNativeBytes = 32;
#define DLK_PARTS(...)                                                                             \
  {{constexpr int i = 0;                                                                           \
  __VA_ARGS__                                                                                      \
  }                                                                                                \
  {                                                                                                \
    constexpr int i = 1;                                                                           \
    __VA_ARGS__                                                                                    \
  }                                                                                                \
  }
#else
constexpr int kNativeBytes = 16;
#define DLK_PARTS(...)                                                                             \
  {{constexpr int i = 0;                                                                           \
  __VA_ARGS__                                                                                      \
  }                                                                                                \
  {                                                                                                \
    constexpr int i = 1;                                                                           \
    __VA_ARGS__                                                                                    \
  }                                                                                                \
  {                                                                                                \
    constexpr int i = 2;                                                                           \
    __VA_ARGS__                                                                                    \
  }                                                                                                \
  {                                                                                                \
    constexpr int i = 3;                                                                           \
    __VA_ARGS__                                                                                    \
  }                                                                                                \
  }
#endif

constexpr int kVecBytes = 64;
constexpr int kParts = kVecBytes / kNativeBytes;

template <class T> struct LaneTraits;
template <> struct LaneTraits<float> {
  typedef float Native __attribute__((vector_size(kNativeBytes), may_alias));
  typedef int32_t NativeInt __attribute__((vector_size(kNativeBytes), may_alias));
  typedef uint32_t NativeUint __attribute__((vector_size(kNativeBytes), may_alias));
  using Int = int32_t;
};
template <> struct LaneTraits<double> {
  typedef double Native __attribute__((vector_size(kNativeBytes), may_alias));
  typedef int64_t NativeInt __attribute__((vector_size(kNativeBytes), may_alias));
  typedef uint64_t NativeUint __attribute__((vector_size(kNativeBytes), may_alias));
  using Int = int64_t;
};

// Lanes of true (all ones) and false (zeros), or plain integers of the lanes' width.
template <class T> struct IntVec {
  using Int = typename LaneTraits<T>::Int;
  typename LaneTraits<T>::NativeInt part[kParts];

  IntVec() = default;
  DLK_INLINE explicit IntVec(Int value) {
    DLK_PARTS(part[i] = value - typename LaneTraits<T>::NativeInt{};)
  }
};

template <class T> struct Vec {
  using Scalar = T;
  using Native = typename LaneTraits<T>::Native;
  static constexpr int kLanes = kVecBytes / sizeof(T);
  Native part[kParts];

  Vec() = default;
  DLK_INLINE explicit Vec(T value) { DLK_PARTS(part[i] = value - Native{};) }
};

#define DLK_BINARY(op)                                                                             \
  template <class T> DLK_INLINE Vec<T> operator op(Vec<T> a, Vec<T> b) {                           \
    Vec<T> r;                                                                                      \
    DLK_PARTS(r.part[i] = a.part[i] op b.part[i];)                                                 \
    return r;                                                                                      \
  }
DLK_BINARY(+)
DLK_BINARY(-)
DLK_BINARY(*)
DLK_BINARY(/)
#undef DLK_BINARY

template <class T> DLK_INLINE Vec<T> operator-(Vec<T> a) {
  Vec<T> r;
  DLK_PARTS(r.part[i] = -a.part[i];)
  return r;
}

#define DLK_COMPARE(op)                                                                            \
  template <class T> DLK_INLINE IntVec<T> operator op(Vec<T> a, Vec<T> b) {                        \
    IntVec<T> r;                                                                                   \
    DLK_PARTS(r.part[i] = a.part[i] op b.part[i];)                                                 \
    return r;                                                                                      \
  }
DLK_COMPARE(<)
DLK_COMPARE(<=)
DLK_COMPARE(>)
DLK_COMPARE(>=)
DLK_COMPARE(==)
DLK_COMPARE(!=)
#undef DLK_COMPARE

#define DLK_INTEGER(op)                                                                            \
  template <class T> DLK_INLINE IntVec<T> operator op(IntVec<T> a, IntVec<T> b) {                  \
    IntVec<T> r;                                                                                   \
    DLK_PARTS(r.part[i] = a.part[i] op b.part[i];)                                                 \
    return r;                                                                                      \
  }
DLK_INTEGER(+)
DLK_INTEGER(-)
DLK_INTEGER(&)
DLK_INTEGER(|)
DLK_INTEGER(^)
#undef DLK_INTEGER

template <class T> DLK_INLINE IntVec<T> shift_left(IntVec<T> a, int bits) {
  IntVec<T> r;
  DLK_PARTS(r.part[i] = a.part[i] << bits;)
  return r;
}

// Logical: zeros come in from the left.
template <class T> DLK_INLINE IntVec<T> shift_right(IntVec<T> a, int bits) {
  using Uint = typename LaneTraits<T>::NativeUint;
  IntVec<T> r;
  DLK_PARTS(r.part[i] = typename LaneTraits<T>::NativeInt(Uint(a.part[i]) >> bits);)
  return r;
}

template <class T> DLK_INLINE IntVec<T> bits_of(Vec<T> a) {
  IntVec<T> r;
  DLK_PARTS(r.part[i] = typename LaneTraits<T>::NativeInt(a.part[i]);)
  return r;
}

template <class T> DLK_INLINE Vec<T> from_bits(IntVec<T> a) {
  Vec<T> r;
  DLK_PARTS(r.part[i] = typename LaneTraits<T>::Native(a.part[i]);)
  return r;
}

// Where the mask is true a, else b.
template <class T> DLK_INLINE Vec<T> select(IntVec<T> mask, Vec<T> a, Vec<T> b) {
  Vec<T> r;
  DLK_PARTS(r.part[i] = mask.part[i] ? a.part[i] : b.part[i];)
  return r;
}

template <class T> DLK_INLINE Vec<T> abs(Vec<T> a) {
  using Int = typename LaneTraits<T>::Int;
  return from_bits<T>(bits_of(a) & IntVec<T>(Int(~(Int(1) << (8 * sizeof(T) - 1)))));
}

template <class T> DLK_INLINE Vec<T> copy_sign(Vec<T> magnitude, Vec<T> sign) {
  using Int = typename LaneTraits<T>::Int;
  const IntVec<T> sign_bit(Int(Int(1) << (8 * sizeof(T) - 1)));
  return from_bits<T>((bits_of(magnitude) & (sign_bit ^ IntVec<T>(Int(-1)))) |
                      (bits_of(sign) & sign_bit));
}

#if defined(__AVX512F__)
DLK_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
  a.part[0] = _mm512_max_ps(a.part[0], b.part[0]);
  return a;
}
DLK_INLINE Vec<double> max(Vec<double> a, Vec<double> b) {
  a.part[0] = _mm512_max_pd(a.part[0], b.part[0]);
  return a;
}
DLK_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
  a.part[0] = _mm512_min_ps(a.part[0], b.part[0]);
  return a;
}
DLK_INLINE Vec<double> min(Vec<double> a, Vec<double> b) {
  a.part[0] = _mm512_min_pd(a.part[0], b.part[0]);
  return a;
}
DLK_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  a.part[0] = _mm512_fmadd_ps(a.part[0], b.part[0], c.part[0]);
  return a;
}
DLK_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  a.part[0] = _mm512_fmadd_pd(a.part[0], b.part[0], c.part[0]);
  return a;
}
#elif defined(__AVX2__)
DLK_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
  DLK_PARTS(a.part[i] = _mm256_max_ps(a.part[i], b.part[i]);) return a;
}
DLK_INLINE Vec<double> max(Vec<double> a, Vec<double> b) {
  DLK_PARTS(a.part[i] = _mm256_max_pd(a.part[i], b.part[i]);) return a;
}
DLK_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
  DLK_PARTS(a.part[i] = _mm256_min_ps(a.part[i], b.part[i]);) return a;
}
DLK_INLINE Vec<double> min(Vec<double> a, Vec<double> b) {
  DLK_PARTS(a.part[i] = _mm256_min_pd(a.part[i], b.part[i]);) return a;
}
DLK_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  DLK_PARTS(a.part[i] = _mm256_fmadd_ps(a.part[i], b.part[i], c.part[i]);) return a;
}
DLK_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  DLK_PARTS(a.part[i] = _mm256_fmadd_pd(a.part[i], b.part[i], c.part[i]);) return a;
}
#else
template <class T> DLK_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(a > b, a, b);
}
template <class T> DLK_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(a < b, a, b);
}
template <class T> DLK_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return a * b + c;
}
#endif

// Correctly rounded; NaN below zero. (The intrinsics without a mask read an undefined register.)
template <class T> DLK_INLINE Vec<T> sqrt(Vec<T> a) {
  constexpr bool is_float = sizeof(T) == 4;
#if defined(__AVX512F__)
  if constexpr (is_float)
    a.part[0] = _mm512_maskz_sqrt_ps(0xffff, a.part[0]);
  else
    a.part[0] = _mm512_maskz_sqrt_pd(0xff, a.part[0]);
#elif defined(__AVX2__)
  if constexpr (is_float)
    DLK_PARTS(a.part[i] = _mm256_sqrt_ps(a.part[i]);)
  else
    DLK_PARTS(a.part[i] = _mm256_sqrt_pd(a.part[i]);)
#else
  DLK_PARTS(for (int lane = 0; lane < kNativeBytes / int(sizeof(T)); ++lane) {
    if constexpr (is_float)
      a.part[i][lane] = __builtin_sqrtf(a.part[i][lane]);
    else
      a.part[i][lane] = __builtin_sqrt(a.part[i][lane]);
  })
#endif
  return a;
}

// The first and the last eight of sixteen floats in memory as doubles: exact. From memory, because
// a conversion that widens a register first has to shuffle it, on the port that sums need.
#if defined(__AVX512F__)
DLK_INLINE Vec<double> load_eight(const float* p) {
  Vec<double> r;
  r.part[0] = _mm512_cvtps_pd(_mm256_loadu_ps(p));
  return r;
}
#elif defined(__AVX2__)
DLK_INLINE Vec<double> load_eight(const float* p) {
  Vec<double> r;
  DLK_PARTS(r.part[i] = _mm256_cvtps_pd(_mm_loadu_ps(p + 4 * i));)
  return r;
}
#else
DLK_INLINE Vec<double> load_eight(const float* p) {
  Vec<double> r;
  DLK_PARTS(for (int lane = 0; lane < 2; ++lane) r.part[i][lane] = p[2 * i + lane];)
  return r;
}
#endif

// Doubles rounded to eight floats in memory.
DLK_INLINE void store_eight(float* p, Vec<double> a) {
  typedef float Half __attribute__((vector_size(kNativeBytes / 2)));
  DLK_PARTS(const Half half = __builtin_convertvector(a.part[i], Half);
            __builtin_memcpy(p + i * (kNativeBytes / 8), &half, sizeof half);)
}

// The first and the last eight lanes as doubles: exact.
#if defined(__AVX512F__)
DLK_INLINE Vec<double> widen_low(Vec<float> a) {
  Vec<double> r;
  r.part[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(a.part[0]));
  return r;
}
DLK_INLINE Vec<double> widen_high(Vec<float> a) {
  Vec<double> r;
  r.part[0] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.part[0], 1));
  return r;
}
#elif defined(__AVX2__)
template <int kPart> DLK_INLINE Vec<double> widen_part(Vec<float> a) {
  Vec<double> r;
  r.part[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(a.part[kPart]));
  r.part[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(a.part[kPart], 1));
  return r;
}
DLK_INLINE Vec<double> widen_low(Vec<float> a) {
  return widen_part<0>(a);
}
DLK_INLINE Vec<double> widen_high(Vec<float> a) {
  return widen_part<1>(a);
}
#else
template <int kFirstPart> DLK_INLINE Vec<double> widen_parts(Vec<float> a) {
  Vec<double> r;
  DLK_PARTS(typename Vec<float>::Native four = a.part[kFirstPart + i / 2];
            for (int lane = 0; lane < 2; ++lane) r.part[i][lane] = four[2 * (i % 2) + lane];)
  return r;
}
DLK_INLINE Vec<double> widen_low(Vec<float> a) {
  return widen_parts<0>(a);
}
DLK_INLINE Vec<double> widen_high(Vec<float> a) {
  return widen_parts<2>(a);
}
#endif

// The larger of numbers that are not negative, compared as integers, which have the same order: on
// AVX2 that keeps the multiplication ports free.
DLK_INLINE Vec<double> max_nonnegative(Vec<double> a, Vec<double> b) {
  return max(a, b);
}
DLK_INLINE Vec<float> max_nonnegative(Vec<float> a, Vec<float> b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  DLK_PARTS(a.part[i] = __m256(_mm256_max_epi32(__m256i(a.part[i]), __m256i(b.part[i])));)
  return a;
#else
  return max(a, b);
#endif
}

// --- loads and stores: any alignment; `count` lanes for the partial ones, the others read as
// `fill` and are never touched in memory.

template <class T> DLK_INLINE Vec<T> load(const T* p) {
  typedef typename Vec<T>::Native Unaligned __attribute__((aligned(1), may_alias));
  constexpr int lanes = kNativeBytes / sizeof(T);
  Vec<T> r;
  DLK_PARTS(r.part[i] = *reinterpret_cast<const Unaligned*>(p + i * lanes);)
  return r;
}

template <class T> DLK_INLINE void store(T* p, Vec<T> v) {
  typedef typename Vec<T>::Native Unaligned __attribute__((aligned(1), may_alias));
  constexpr int lanes = kNativeBytes / sizeof(T);
  DLK_PARTS(*reinterpret_cast<Unaligned*>(p + i * lanes) = v.part[i];)
}

// Past the cache; p is 64-byte aligned.
template <class T> DLK_INLINE void stream(T* p, Vec<T> v) {
  constexpr int lanes = kNativeBytes / sizeof(T);
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), __m512i(v.part[0]));
#elif defined(__AVX2__)
  DLK_PARTS(_mm256_stream_si256(reinterpret_cast<__m256i*>(p + i * lanes), __m256i(v.part[i]));)
#elif defined(__x86_64__)
  DLK_PARTS(_mm_stream_si128(reinterpret_cast<__m128i*>(p + i * lanes), __m128i(v.part[i]));)
#else
  store(p, v);
#endif
  (void)lanes;
}

// Makes this thread's streamed stores visible before what it stores next.
DLK_INLINE void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

#if defined(__AVX512F__)
DLK_INLINE Vec<float> load_partial(const float* p, int64_t count, float fill = 0) {
  Vec<float> r;
  r.part[0] = _mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16((1u << count) - 1), p);
  return r;
}
DLK_INLINE Vec<double> load_partial(const double* p, int64_t count, double fill = 0) {
  Vec<double> r;
  r.part[0] = _mm512_mask_loadu_pd(_mm512_set1_pd(fill), __mmask8((1u << count) - 1), p);
  return r;
}
DLK_INLINE void store_partial(float* p, Vec<float> v, int64_t count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v.part[0]);
}
DLK_INLINE void store_partial(double* p, Vec<double> v, int64_t count) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), v.part[0]);
}
#elif defined(__AVX2__)
template <int kFirstLane> DLK_INLINE __m256i lane_mask32(int64_t count) {
  const __m256i lane =
      _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(kFirstLane));
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), lane);
}
template <int kFirstLane> DLK_INLINE __m256i lane_mask64(int64_t count) {
  const __m256i lane =
      _mm256_add_epi64(_mm256_setr_epi64x(0, 1, 2, 3), _mm256_set1_epi64x(kFirstLane));
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane);
}
DLK_INLINE Vec<float> load_partial(const float* p, int64_t count, float fill = 0) {
  Vec<float> r;
  DLK_PARTS(const __m256i mask = lane_mask32<8 * i>(count);
            r.part[i] = _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p + 8 * i, mask),
                                         _mm256_castsi256_ps(mask));)
  return r;
}
DLK_INLINE Vec<double> load_partial(const double* p, int64_t count, double fill = 0) {
  Vec<double> r;
  DLK_PARTS(const __m256i mask = lane_mask64<4 * i>(count);
            r.part[i] = _mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(p + 4 * i, mask),
                                         _mm256_castsi256_pd(mask));)
  return r;
}
DLK_INLINE void store_partial(float* p, Vec<float> v, int64_t count) {
  DLK_PARTS(_mm256_maskstore_ps(p + 8 * i, lane_mask32<8 * i>(count), v.part[i]);)
}
DLK_INLINE void store_partial(double* p, Vec<double> v, int64_t count) {
  DLK_PARTS(_mm256_maskstore_pd(p + 4 * i, lane_mask64<4 * i>(count), v.part[i]);)
}
#else
template <class T, class = typename LaneTraits<T>::Native>
DLK_INLINE Vec<T> load_partial(const T* p, int64_t count, T fill = 0) {
  alignas(kVecBytes) T lanes[Vec<T>::kLanes];
  for (int64_t lane = 0; lane < Vec<T>::kLanes; ++lane)
    lanes[lane] = lane < count ? p[lane] : fill;
  return load(lanes);
}
template <class T, class = typename LaneTraits<T>::Native>
DLK_INLINE void store_partial(T* p, Vec<T> v, int64_t count) {
  alignas(kVecBytes) T lanes[Vec<T>::kLanes];
  store(lanes, v);
  for (int64_t lane = 0; lane < count; ++lane)
    p[lane] = lanes[lane];
}
#endif

// --- lanes to one value, in one fixed order: lane j with lane j + half, halving.

template <class T> struct PlusLanes {
  static DLK_INLINE Vec<T> vec(Vec<T> a, Vec<T> b) { return a + b; }
  template <class N> static DLK_INLINE N native(N a, N b) { return a + b; }
  static DLK_INLINE T scalar(T a, T b) { return a + b; }
};
template <class T> struct MaxLanes {
  static DLK_INLINE Vec<T> vec(Vec<T> a, Vec<T> b) { return max(a, b); }
  template <class N> static DLK_INLINE N native(N a, N b) { return a > b ? a : b; }
  static DLK_INLINE T scalar(T a, T b) { return a > b ? a : b; }
};

template <class Operation, class T> DLK_INLINE T reduce_lanes(Vec<T> v) {
  typedef T Quarter __attribute__((vector_size(16), may_alias));
  constexpr int lanes = Vec<T>::kLanes, quarter = 16 / sizeof(T);
  alignas(kVecBytes) T values[lanes];
  store(values, v);
  const Quarter* parts = reinterpret_cast<const Quarter*>(values);
  const Quarter sum = Operation::native(Operation::native(parts[0], parts[2]),
                                        Operation::native(parts[1], parts[3]));
  if constexpr (quarter == 2)
    return Operation::scalar(sum[0], sum[1]);
  else
    return Operation::scalar(Operation::scalar(sum[0], sum[2]), Operation::scalar(sum[1], sum[3]));
}

template <class T> DLK_INLINE T sum_lanes(Vec<T> v) {
  return reduce_lanes<PlusLanes<T>>(v);
}
template <class T> DLK_INLINE T max_lanes(Vec<T> v) {
  return reduce_lanes<MaxLanes<T>>(v);
}

// The same value in every lane, without leaving the registers.
template <class Operation, class T> DLK_INLINE Vec<T> reduce_to_lanes(Vec<T> v) {
#if defined(__AVX512F__)
  const auto with_other = [&](auto moved) DLK_BODY {
    Vec<T> other;
    other.part[0] = typename Vec<T>::Native(moved);
    v = Operation::vec(v, other);
  };
  with_other(_mm512_shuffle_f64x2(__m512d(v.part[0]), __m512d(v.part[0]), 0x4e));
  with_other(_mm512_shuffle_f64x2(__m512d(v.part[0]), __m512d(v.part[0]), 0xb1));
  with_other(_mm512_permute_pd(__m512d(v.part[0]), 0x55));
  if constexpr (sizeof(T) == 4)
    with_other(_mm512_permute_ps(__m512(v.part[0]), 0xb1));
  return v;
#elif defined(__AVX2__)
  const auto with_other = [&](auto moved) DLK_BODY {
    Vec<T> other;
    other.part[0] = other.part[1] = typename Vec<T>::Native(moved);
    v = Operation::vec(v, other);
    v.part[1] = v.part[0];
  };
  with_other(v.part[1]);
  with_other(_mm256_permute2f128_pd(__m256d(v.part[0]), __m256d(v.part[0]), 1));
  with_other(_mm256_permute_pd(__m256d(v.part[0]), 0x5));
  if constexpr (sizeof(T) == 4)
    with_other(_mm256_permute_ps(__m256(v.part[0]), 0xb1));
  return v;
#else
  return Vec<T>(reduce_lanes<Operation>(v));
#endif
}

// table[index % 8] in each lane
DLK_INLINE IntVec<float> lookup_eight(const int32_t (&table)[8], IntVec<float> index) {
  using NativeInt = LaneTraits<float>::NativeInt;
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table));
  const __m512i twice = _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
  index.part[0] = NativeInt(_mm512_permutexvar_epi32(__m512i(index.part[0]), twice));
#elif defined(__AVX2__)
  const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table));
  DLK_PARTS(index.part[i] = NativeInt(_mm256_permutevar8x32_epi32(values, __m256i(index.part[i])));)
#else
  DLK_PARTS(for (int lane = 0; lane < kNativeBytes / 4; ++lane) index.part[i][lane] =
                table[index.part[i][lane] & 7];)
#endif
  return index;
}

// One bit per lane, lane 0 lowest.
template <class T> DLK_INLINE uint32_t mask_bits(IntVec<T> mask) {
  uint32_t bits = 0;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    bits = _mm512_movepi32_mask(__m512i(mask.part[0]));
  else
    bits = _mm512_movepi64_mask(__m512i(mask.part[0]));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    DLK_PARTS(bits |= uint32_t(_mm256_movemask_ps(__m256(mask.part[i]))) << (8 * i);)
  else
    DLK_PARTS(bits |= uint32_t(_mm256_movemask_pd(__m256d(mask.part[i]))) << (4 * i);)
#else
  constexpr int lanes = kNativeBytes / sizeof(T);
  DLK_PARTS(for (int lane = 0; lane < lanes; ++lane) bits |= uint32_t(mask.part[i][lane] & 1)
                                                             << (i * lanes + lane);)
#endif
  return bits;
}

// The inverse of mask_bits.
template <class T> DLK_INLINE IntVec<T> mask_from_bits(uint32_t bits) {
  using Int = typename LaneTraits<T>::Int;
  using NativeInt = typename LaneTraits<T>::NativeInt;
  constexpr int lanes = kNativeBytes / sizeof(T);
  IntVec<T> r;
  DLK_PARTS(NativeInt bit;
            for (int lane = 0; lane < lanes; ++lane) bit[lane] = Int(1) << (i * lanes + lane);
            r.part[i] = ((Int(bits) - NativeInt{}) & bit) == bit;)
  return r;
}

} // namespace dlk::DLK_ISA
