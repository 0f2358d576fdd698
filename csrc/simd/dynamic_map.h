// States of optimizers in eight bits: 256 numbers between -1 (or 0) and 1, the dynamic map of
// Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (ICLR 2022), with the codes that
// bitsandbytes gives them. A block of 256 elements has one scale, its largest magnitude.
//
// Decade i of seven has n values 10^(i-6) * (0.1 + 0.9 * (j + 0.5) / n), j in [0, n), n = 2^i with
// a sign, 2^(i+1) without; then there are 0 and 1. Sorted, k of them above 0, one is
//     A[i] + B[i] * k,   i the exponent of the float k (signed) or k + 1 (unsigned)
// so a code becomes a number by a conversion, two tables of eight in registers and one fma. A and B
// were searched for: the values are within 4 units in the last place of bitsandbytes's float32
// table with a sign, 2 without. (The table itself, 128 or 256 entries, is as many instructions
// with AVX-512 and a gather with AVX2, which is slow on Zen.)
//
// A number x becomes the code of the map's value nearest to x / scale; where it is within 2^-16 of
// a step of the middle between two, either. Its decade comes from the bits of the float, which
// are its logarithm, and one comparison; within the decade the code is linear.
#pragma once

#include "simd/vec.h"

namespace dlk::DLK_ISA {

constexpr int64_t kScaleBlock = 256; // elements that share a scale

// Eight floats in registers. Of an index the low three bits count.
class EightFloats {
public:
#if defined(__AVX512F__)
  DLK_INLINE explicit EightFloats(const float* p)
      : table_(_mm512_broadcast_f32x8(_mm256_loadu_ps(p))) {}
  DLK_INLINE Vec<float> operator[](IntVec<float> index) const {
    Vec<float> r;
    r.part[0] = _mm512_permutexvar_ps(__m512i(index.part[0]), table_);
    return r;
  }

private:
  __m512 table_; // twice, since four bits of an index count
#elif defined(__AVX2__)
  DLK_INLINE explicit EightFloats(const float* p) : table_(_mm256_loadu_ps(p)) {}
  DLK_INLINE Vec<float> operator[](IntVec<float> index) const {
    Vec<float> r;
    DLK_PARTS(r.part[i] = _mm256_permutevar8x32_ps(table_, __m256i(index.part[i]));)
    return r;
  }

private:
  __m256 table_;
#else
  DLK_INLINE explicit EightFloats(const float* p) : table_(p) {}
  DLK_INLINE Vec<float> operator[](IntVec<float> index) const {
    Vec<float> r;
    DLK_PARTS(for (int lane = 0; lane < 4; ++lane) r.part[i][lane] =
                  table_[index.part[i][lane] & 7];)
    return r;
  }

private:
  const float* table_;
#endif
};

// Sixteen bytes as whole numbers, and back: numbers of 0 to 255.
DLK_INLINE IntVec<float> widen_bytes(const uint8_t* p) {
  IntVec<float> r;
#if defined(__AVX512F__)
  r.part[0] = LaneTraits<float>::NativeInt(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  DLK_PARTS(r.part[i] = LaneTraits<float>::NativeInt(_mm256_cvtepu8_epi32(
                _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * i))));)
#else
  DLK_PARTS(for (int lane = 0; lane < 4; ++lane) r.part[i][lane] = p[4 * i + lane];)
#endif
  return r;
}
DLK_INLINE void narrow_bytes(uint8_t* p, IntVec<float> v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(__m512i(v.part[0])));
#elif defined(__AVX2__)
  const __m256i words = _mm256_packus_epi32(__m256i(v.part[0]), __m256i(v.part[1]));
  const __m256i bytes = _mm256_packus_epi16(words, words); // 0-3 8-11 . . 4-7 12-15 . .
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
#else
  DLK_PARTS(for (int lane = 0; lane < 4; ++lane) p[4 * i + lane] = uint8_t(v.part[i][lane]);)
#endif
}

// Sixteen numbers from -128 to 128, plus 127; -128 has no code of its own and gets that of -127.
DLK_INLINE void narrow_shifted(uint8_t* p, IntVec<float> v) {
  v = v - IntVec<float>(1);
#if defined(__x86_64__)
  __m128i bytes;
#if defined(__AVX512F__)
  bytes = _mm512_cvtsepi32_epi8(__m512i(v.part[0]));
#elif defined(__AVX2__)
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(__m256i(v.part[0]), __m256i(v.part[1])), 0xd8);
  bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
#else
  bytes = _mm_packs_epi16(_mm_packs_epi32(__m128i(v.part[0]), __m128i(v.part[1])),
                          _mm_packs_epi32(__m128i(v.part[2]), __m128i(v.part[3])));
#endif
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
#else
  DLK_PARTS(for (int lane = 0; lane < 4; ++lane) {
    const int32_t value = v.part[i][lane];
    p[4 * i + lane] = uint8_t((value < -128 ? -128 : value) + 128);
  })
#endif
}

DLK_INLINE IntVec<float> larger(IntVec<float> a, IntVec<float> b) {
  DLK_PARTS(a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];)
  return a;
}

DLK_INLINE Vec<float> to_float(IntVec<float> a) {
  Vec<float> r;
  DLK_PARTS(r.part[i] = __builtin_convertvector(a.part[i], LaneTraits<float>::Native);)
  return r;
}
// Towards zero.
DLK_INLINE IntVec<float> truncated(Vec<float> a) {
  IntVec<float> r;
  DLK_PARTS(r.part[i] = __builtin_convertvector(a.part[i], LaneTraits<float>::NativeInt);)
  return r;
}
// To the nearest, even at the middle; for magnitudes below 2^22.
DLK_INLINE IntVec<float> rounded(Vec<float> a) {
  IntVec<float> r;
#if defined(__AVX512F__)
  r.part[0] = LaneTraits<float>::NativeInt(_mm512_cvtps_epi32(a.part[0]));
#elif defined(__AVX2__)
  DLK_PARTS(r.part[i] = LaneTraits<float>::NativeInt(_mm256_cvtps_epi32(a.part[i]));)
#else
  const Vec<float> shift(12582912.0f); // 1.5 * 2^23
  r = bits_of(a + shift) - bits_of(shift);
#endif
  return r;
}

template <bool kSigned> struct MapTables;
// `add` and `factor` by the low bits of the exponent of k; the others by zone: what becomes 0 (and
// what becomes 1, which is zone 8), then the decades. `limit` is where a zone ends, `steps` and
// `offset` make codes of it, at most `last`.
template <> struct MapTables<true> {
  static constexpr float add[8] = {-0x1.81e03cp-18f,
                                   -0x1.205bbep-14f,
                                   -0x1.85f06ep-11f,
                                   -0x1.f9db26p-8f,
                                   -0x1.41eb84p-4f,
                                   -0x1.960002p-1f,
                                   0.0f,
                                   -0x1.77cf4p-22f};
  static constexpr float factor[8] = {0x1.2dfd68p-18f, 0x1.797cc2p-16f, 0x1.d7dbf4p-14f,
                                      0x1.26e97ap-11f, 0x1.70a3d6p-9f,  0x1.cccccep-7f,
                                      0x1p-7f,         0x1.e32f0ep-21f};
  static constexpr float limit[8] = {0.275e-6f,  1.9e-6f,     1.45e-5f,     1.225e-4f,
                                     1.1125e-3f, 1.05625e-2f, 1.028125e-1f, 0.996484375f};
  static constexpr float last[8] = {128, 1, 3, 7, 15, 31, 63, 127};
  static constexpr float steps[8] = {128,
                                     float(1e6 / 0.9),
                                     float(2e5 / 0.9),
                                     float(4e4 / 0.9),
                                     float(8e3 / 0.9),
                                     float(1.6e3 / 0.9),
                                     float(320 / 0.9),
                                     float(64 / 0.9)};
  // n - 0.5 - n / 9
  static constexpr float offset[8] = {0,
                                      float(8 / 9.0 - 0.5),
                                      float(16 / 9.0 - 0.5),
                                      float(32 / 9.0 - 0.5),
                                      float(64 / 9.0 - 0.5),
                                      float(128 / 9.0 - 0.5),
                                      float(256 / 9.0 - 0.5),
                                      float(512 / 9.0 - 0.5)};
};
template <> struct MapTables<false> {
  // The last are of k = 1 and of k = 256.
  static constexpr float add[8] = {-0x1.34b36p-21f,  -0x1.cd5f98p-18f, -0x1.37f38ap-14f,
                                   -0x1.94af4ep-11f, -0x1.018936p-7f,  -0x1.44cccep-4f,
                                   -0x1.97ccccp-1f,  -0x1.010102p-8f};
  static constexpr float factor[8] = {0x1.e32f0ap-22f, 0x1.2dfd68p-19f, 0x1.797cc2p-17f,
                                      0x1.d7dbf4p-15f, 0x1.26e978p-12f, 0x1.70a3d8p-10f,
                                      0x1.ccccccp-8f,  0x1.010102p-8f};
  static constexpr float limit[8] = {1.625e-7f,   1.45e-6f,     1.225e-5f,     1.1125e-4f,
                                     1.05625e-3f, 1.028125e-2f, 1.0140625e-1f, 0.9982421875f};
  static constexpr float last[8] = {255, 2, 6, 14, 30, 62, 126, 254};
  static constexpr float steps[8] = {255,
                                     float(2e6 / 0.9),
                                     float(4e5 / 0.9),
                                     float(8e4 / 0.9),
                                     float(1.6e4 / 0.9),
                                     float(3.2e3 / 0.9),
                                     float(640 / 0.9),
                                     float(128 / 0.9)};
  // n - 1.5 - n / 9
  static constexpr float offset[8] = {0,
                                      float(16 / 9.0 - 1.5),
                                      float(32 / 9.0 - 1.5),
                                      float(64 / 9.0 - 1.5),
                                      float(128 / 9.0 - 1.5),
                                      float(256 / 9.0 - 1.5),
                                      float(512 / 9.0 - 1.5),
                                      float(1024 / 9.0 - 1.5)};
};

// The same by the exponent of 2^-24 and more, halved, of which the low four bits are the index: a
// step of 4, in which there is one limit at most, and beyond it all is as in the next step below
// its own.
struct StepTables {
  alignas(64) float limit[16];
  alignas(64) float last[16];
  alignas(64) float steps[16];
  alignas(64) float offset[16];
};
template <class Tables> constexpr StepTables step_tables() {
  StepTables r{};
  float start = 0x1p-25f;
  for (int step = 51; step < 65; ++step, start *= 4) {
    int zone = 0;
    while (zone < 8 && start > Tables::limit[zone])
      ++zone;
    const int index = step & 15;
    r.limit[index] = zone < 8 && Tables::limit[zone] < 4 * start ? Tables::limit[zone] : 8;
    r.last[index] = Tables::last[zone & 7];
    r.steps[index] = Tables::steps[zone & 7];
    r.offset[index] = Tables::offset[zone & 7];
  }
  return r;
}

template <bool kSigned> class DynamicMap {
  using Tables = MapTables<kSigned>;

public:
  // The map's values of sixteen codes.
  static DLK_INLINE Vec<float> values(IntVec<float> codes) {
    const Vec<float> k = to_float(kSigned ? codes - IntVec<float>(127) : codes + IntVec<float>(1));
    IntVec<float> exponent = shift_right(bits_of(k), 23);
    if constexpr (!kSigned)
      return fma(EightFloats(Tables::factor)[exponent], k, EightFloats(Tables::add)[exponent]);
    const IntVec<float> sign = bits_of(k) & IntVec<float>(INT32_MIN);
#if defined(__AVX512F__)
    // 0 has an exponent of its own among the sixteen.
    const auto lookup = [&](const float* table) DLK_BODY {
      Vec<float> r;
      r.part[0] = _mm512_permutexvar_ps(__m512i(exponent.part[0]), _mm512_load_ps(table));
      return r;
    };
    exponent = larger(exponent, IntVec<float>(kZeroExponent));
    const Vec<float> add = lookup(kSigned16.add);
    return fma(lookup(kSigned16.factor), k, from_bits<float>(bits_of(add) ^ sign));
#else
    const Vec<float> add = EightFloats(Tables::add)[exponent];
    const Vec<float> value =
        fma(EightFloats(Tables::factor)[exponent], k, from_bits<float>(bits_of(add) ^ sign));
    return from_bits<float>(bits_of(value) & (k != Vec<float>(0)));
#endif
  }

  // The codes of the values nearest to x * inverse_scale, which is in [-1, 1].
  static DLK_INLINE void store_codes(uint8_t* p, Vec<float> x, Vec<float> inverse_scale) {
    Vec<float> y = x * inverse_scale;
#if defined(__AVX512F__)
    const auto lookup = [](const float* table, __m512i index) DLK_BODY {
      return _mm512_permutexvar_ps(index, _mm512_load_ps(table));
    };
    const __m512 floor = _mm512_set1_ps(0x1p-24f);
    constexpr int larger_magnitude_without_sign = 0b1011;
    if constexpr (kSigned)
      y.part[0] = _mm512_range_ps(y.part[0], floor, larger_magnitude_without_sign);
    else
      y.part[0] = _mm512_max_ps(y.part[0], floor);
    const __m512i step = _mm512_srli_epi32(_mm512_castps_si512(y.part[0]), 24);
    const __mmask16 is_above =
        _mm512_cmp_ps_mask(y.part[0], lookup(kSteps.limit, step), _CMP_GT_OQ);
    const __m512i zone = _mm512_mask_add_epi32(step, is_above, step, _mm512_set1_epi32(1));
    Vec<float> k;
    k.part[0] = _mm512_fmadd_ps(lookup(kSteps.steps, zone), y.part[0], lookup(kSteps.offset, zone));
    k.part[0] = _mm512_min_ps(k.part[0], lookup(kSteps.last, zone));
#else
    const EightFloats limit(Tables::limit), last(Tables::last), steps(Tables::steps),
        offset(Tables::offset);
    y = max(kSigned ? abs(y) : y, Vec<float>(0x1p-24f));
    // The bits are 2^23 * (127 + log2 y), up to 9 % of an octave: log10(y) + 7.3 up to 0.03.
    const Vec<float> octaves(float(0.30103 / (1 << 23))), start(float(7.3 - 127 * 0.30103));
    IntVec<float> zone = truncated(fma(to_float(bits_of(y)), octaves, start));
    zone = zone - (y > limit[zone]);
    const Vec<float> k = min(fma(steps[zone], y, offset[zone]), last[zone]);
#endif
    if constexpr (kSigned)
      narrow_shifted(
          p, rounded(from_bits<float>(bits_of(k) | (bits_of(x) & IntVec<float>(INT32_MIN)))));
    else
      narrow_bytes(p, rounded(k));
  }

  static constexpr int32_t kZeroCode = kSigned ? 127 : 0;

private:
  static constexpr StepTables kSteps = step_tables<Tables>();

  // `add` and `factor` by the low four bits of the exponent, 0 for kZeroExponent.
  static constexpr int32_t kZeroExponent = 125;
  struct SixteenFloats {
    alignas(64) float add[16];
    alignas(64) float factor[16];
  };
  static constexpr SixteenFloats sixteen() {
    SixteenFloats r{};
    for (int exponent = 127; exponent < 135; ++exponent) {
      r.add[exponent & 15] = Tables::add[exponent & 7];
      r.factor[exponent & 15] = Tables::factor[exponent & 7];
    }
    return r;
  }
  static constexpr SixteenFloats kSigned16 = sixteen();
};

// The largest magnitude, as the bits of a float: NaN and infinity are above all others.
DLK_INLINE IntVec<float> larger_magnitude(IntVec<float> a, Vec<float> b) {
  return larger(a, bits_of(b) & IntVec<float>(INT32_MAX));
}

// What a block is stored with, from its largest magnitude: a block that holds a NaN or an infinity
// becomes NaN as a whole (0 * NaN); one whose numbers are all below the smallest normal one
// becomes 0, as its inverse would overflow.
struct BlockScale {
  float scale, inverse; // inverse 0: every code is that of 0
};
DLK_INLINE BlockScale block_scale(float largest) {
  if (!(largest <= 3.40282347e38f))
    return {__builtin_nanf(""), 0};
  if (largest < 1.17549435e-38f)
    return {0, 0};
  return {largest, 1 / largest};
}

} // namespace dlk::DLK_ISA
