// Elementary functions on Vec<float> and Vec<double>, one formula for both. The bounds are on AVX2
// and AVX-512, over the whole range unless said; tests/scalar_functions.py has the same numbers.
// Coefficients are minimax fits of our own, float ones then moved by units in the last place until
// the worst of all arguments was least.
#pragma once

#include "simd/vec.h"

namespace dlk::DLK_ISA {

template <class T> struct MathConstants;

template <> struct MathConstants<float> {
  static constexpr int kMantissaBits = 23, kExponentBias = 127;
  static constexpr float kRoundMagic = 12582912.0f;   // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kExponentMagic = 8388608.0f; // 2^23
  static constexpr int32_t kExponentMagicBits = 0x4b000000;
  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kExpLowest = -132.4f, kExpHighest = 100.0f; // 0 and inf beyond
  static constexpr int kGuardBits = 64; // how far exp_nonpositive stays above subnormals
  static constexpr float kGuardScale = 0x1p-64f;
  static constexpr float kExpDeep = -70.0f;     // ExpTail: guarded from here down
  static constexpr float kExpm1Lowest = -20.0f; // -1 from here down
  static constexpr int kExpTerms = 5;
  static constexpr float kExp[kExpTerms] = {0.5f, 0x1.55547ep-3f, 0x1.5557c6p-5f, 0x1.12463ap-7f,
                                            0x1.6a4e6cp-10f};
  static constexpr float kNormalLimit = 16.272f; // guarded_gauss is 0 there
  static constexpr float kNormalDeep = 11.0f;    // a density is guarded from here on
  // gauss: eighths of powers of two; (e^(-r / 2) - 1) / r for |r| <= ln 2 / 8
  static constexpr int kGaussSteps = 8;
  static constexpr float kGaussStepHigh = 0x1.62ep-3f, kGaussStepLow = 0x1.0bfbe8p-17f;
  static constexpr int kGaussTerms = 3;
  static constexpr float kGauss[kGaussTerms] = {-0.5f, 0x1.0008aap-3f, -0x1.5548aap-6f};
  static constexpr int kMillsTopTerms = 5, kMillsBottomTerms = 6; // bottom: times 2^kGuardBits
  static constexpr float kMillsTop[kMillsTopTerms] = {
      0x1.000002p-1f, 0x1.c1059cp-2f, 0x1.7792c8p-3f, 0x1.4d4836p-5f, 0x1.0e428ep-8f};
  static constexpr float kMillsBottom[kMillsBottomTerms] = {0x1.000002p+64f, 0x1.acc508p+64f,
                                                            0x1.340028p+64f, 0x1.e124eep+62f,
                                                            0x1.a1bbbep+60f, 0x1.52b77ap+57f};
  static constexpr int32_t kHighHalfMask = ~0xfff;
  static constexpr int kExp2Terms = 6;
  static constexpr float kExp2[kExp2Terms] = {0x1.62e430p-1f, 0x1.ebfbc2p-3f,  0x1.c6aeb0p-5f,
                                              0x1.3b33fcp-7f, 0x1.5f77a8p-10f, 0x1.42bc86p-13f};
  static constexpr float kExpBoundedLowest = -88.2f;
  static constexpr int kLogTerms = 4;
  static constexpr float kLog[kLogTerms] = {0x1.555554p-1f, 0x1.999a7ap-2f, 0x1.2438c4p-2f,
                                            0x1.e2f99cp-3f};
  static constexpr float kSqrt2 = 0x1.6a09e6p+0f;
  static constexpr float kSmallestNormal = 0x1p-126f, kSubnormalScale = 0x1p24f;
  static constexpr float kSubnormalExponent = 24;
  static constexpr int32_t kMantissaMask = 0x7fffff, kOneBits = 0x3f800000;
};

template <> struct MathConstants<double> {
  static constexpr int kMantissaBits = 52, kExponentBias = 1023;
  static constexpr double kRoundMagic = 6755399441055744.0;    // 1.5 * 2^52
  static constexpr double kExponentMagic = 4503599627370496.0; // 2^52
  static constexpr int64_t kExponentMagicBits = 0x4330000000000000;
  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kExpLowest = -1125.0, kExpHighest = 720.0;
  static constexpr int kGuardBits = 600;
  static constexpr double kGuardScale = 0x1p-600;
  static constexpr double kExpDeep = -500.0;
  static constexpr double kExpm1Lowest = -44.0;
  static constexpr int kExpTerms = 11;
  static constexpr double kExp[kExpTerms] = {
      0x1.0000000000000p-1,  0x1.555555555555bp-3,  0x1.5555555555503p-5,  0x1.111111110ec5dp-7,
      0x1.6c16c16c3048cp-10, 0x1.a01a01b37e37fp-13, 0x1.a01a01368f8a6p-16, 0x1.71ddf020cdf7cp-19,
      0x1.27e5b44633b0cp-22, 0x1.af6be7e48e2dcp-26, 0x1.1e3d2d1adc0f8p-29};
  static constexpr double kNormalLimit = 47.434, kNormalDeep = 32.0;
  static constexpr int kGaussSteps = 1; // whole powers, |r| <= ln 2
  static constexpr double kGaussStepHigh = 2 * kLn2High, kGaussStepLow = 2 * kLn2Low;
  static constexpr int kGaussTerms = kExpTerms + 1;
  static constexpr double kGauss[kGaussTerms] = {-0.5,           kExp[0] / 4,     -kExp[1] / 8,
                                                 kExp[2] / 16,   -kExp[3] / 32,   kExp[4] / 64,
                                                 -kExp[5] / 128, kExp[6] / 256,   -kExp[7] / 512,
                                                 kExp[8] / 1024, -kExp[9] / 2048, kExp[10] / 4096};
  static constexpr int kMillsTopTerms = 11, kMillsBottomTerms = 12; // likewise
  static constexpr double kMillsTop[kMillsTopTerms] = {
      0x1.0000000000000p-1,  0x1.a7e7d10af2d3ep-1,  0x1.5bf90af3a5965p-1, 0x1.6df11d5ef55b1p-2,
      0x1.0e73926d3e7a8p-3,  0x1.24383fa1ee177p-5,  0x1.d2dcc33d588acp-8, 0x1.109876c23ae95p-10,
      0x1.bf1383b57c807p-14, 0x1.d43e7f3f2ad64p-18, 0x1.e18af605a0ea9p-23};
  static constexpr double kMillsBottom[kMillsBottomTerms] = {
      0x1.0000000000000p+600, 0x1.3a14fd54ca433p+601, 0x1.68966bd2afbcep+601,
      0x1.0031def0561c3p+601, 0x1.f5d74aaea94fap+599, 0x1.64b44fff57ed3p+598,
      0x1.78c6bd7fe589ep+596, 0x1.28ebf6861679ap+594, 0x1.57f0b65082949p+591,
      0x1.18c0bb4f27a67p+588, 0x1.256db1bdf586ap+584, 0x1.2dc3202ec77fep+579};
  static constexpr int64_t kHighHalfMask = ~0x7ffffff;
  static constexpr int kExp2Terms = 12;
  static constexpr double kExp2[kExp2Terms] = {
      0x1.62e42fefa39efp-1,  0x1.ebfbdff82c58fp-3,  0x1.c6b08d704a0cfp-5,  0x1.3b2ab6fba4e22p-7,
      0x1.5d87fe78a26afp-10, 0x1.430912f883d8ep-13, 0x1.ffcbfc74dea9ep-17, 0x1.62c021e25402cp-20,
      0x1.b524dd41d62cap-24, 0x1.e4d06cab41385p-28, 0x1.ea016e69a3e38p-32, 0x1.c2ce865e256a2p-36};
  static constexpr double kExpBoundedLowest = -709.26;
  static constexpr int kLogTerms = 7;
  static constexpr double kLog[kLogTerms] = {
      0x1.5555555555593p-1, 0x1.999999997fca0p-2, 0x1.2492494201cb1p-2, 0x1.c71c51fae98fbp-3,
      0x1.7466420d89a55p-3, 0x1.39a1651ea2ca4p-3, 0x1.2f08ed1895486p-3};
  static constexpr double kSqrt2 = 0x1.6a09e667f3bcdp+0;
  static constexpr double kSmallestNormal = 0x1p-1022, kSubnormalScale = 0x1p54;
  static constexpr double kSubnormalExponent = 54;
  static constexpr int64_t kMantissaMask = 0xfffffffffffff, kOneBits = 0x3ff0000000000000;
};

// c[0] + x (c[1] + x (c[2] + ...))
template <int kTerms, class T> DLK_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[kTerms]) {
  Vec<T> sum(c[kTerms - 1]);
#pragma GCC unroll 16
  for (int term = kTerms - 2; term >= 0; --term)
    sum = fma(sum, x, Vec<T>(c[term]));
  return sum;
}

// x = n ln 2 + r with n an integer, |r| <= ln 2 / 2.
template <class T> struct Reduced {
  Vec<T> n_magic; // n + kRoundMagic (+ bias): its low bits hold n
  Vec<T> n, r;
};
template <class T> DLK_INLINE Reduced<T> reduce_by_ln2(Vec<T> x, int bias = 0) {
  using M = MathConstants<T>;
  const Vec<T> magic(M::kRoundMagic + T(bias));
  Reduced<T> reduced;
  reduced.n_magic = fma(x, Vec<T>(M::kLog2E), magic);
  reduced.n = reduced.n_magic - magic;
  reduced.r = fma(reduced.n, Vec<T>(-M::kLn2High), x);
  reduced.r = fma(reduced.n, Vec<T>(-M::kLn2Low), reduced.r);
  return reduced;
}

// e^r - 1 for |r| <= ln 2 / 2
template <class T> DLK_INLINE Vec<T> expm1_reduced(Vec<T> r) {
  return fma(polynomial(r, MathConstants<T>::kExp), r * r, r);
}

// 2^n for an integral n that has a normal power
template <class T> DLK_INLINE Vec<T> power_of_two(Vec<T> n) {
  using M = MathConstants<T>;
  return from_bits<T>(
      shift_left(bits_of(n + Vec<T>(M::kRoundMagic + T(M::kExponentBias))), M::kMantissaBits));
}

// e^x. Max error: float 1 ULP, double 1 ULP. NaN -> NaN, -inf -> 0, subnormal results rounded once.
template <class T> DLK_INLINE Vec<T> exp(Vec<T> x) {
  using M = MathConstants<T>;
  x = min(Vec<T>(M::kExpHighest), max(Vec<T>(M::kExpLowest), x));
  const Reduced<T> reduced = reduce_by_ln2(x);
  const Vec<T> mantissa = expm1_reduced(reduced.r) + Vec<T>(1);
  const Vec<T> magic(M::kRoundMagic);
  const Vec<T> half_n = fma(reduced.n, Vec<T>(T(0.5)), magic) - magic;
  return mantissa * power_of_two(half_n) * power_of_two(reduced.n - half_n);
}

// e^x 2^kGuardBits for x <= 1; from kExpLowest down, where the exponent's field is 0, it is 0.
template <class T> DLK_INLINE Vec<T> guarded_exp(Vec<T> x) {
  using M = MathConstants<T>;
  x = max(Vec<T>(M::kExpLowest), x);
  const Reduced<T> reduced = reduce_by_ln2(x, M::kExponentBias + M::kGuardBits);
  const Vec<T> mantissa = expm1_reduced(reduced.r) + Vec<T>(1);
  return mantissa * from_bits<T>(shift_left(bits_of(reduced.n_magic), M::kMantissaBits));
}

// e^x for x <= 1, three operations cheaper: the exponent is built 2^kGuardBits too high and taken
// back by one multiplication, which rounds subnormal results right. Max error as exp.
template <class T> DLK_INLINE Vec<T> exp_nonpositive(Vec<T> x) {
  return guarded_exp(x) * Vec<T>(MathConstants<T>::kGuardScale);
}

// Whether any lane is set.
template <class T> DLK_INLINE bool any_lane(IntVec<T> mask) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i either = __m256i(mask.part[0]) | __m256i(mask.part[1]);
  return _mm256_movemask_ps(_mm256_castsi256_ps(either)) != 0;
#else
  return mask_bits(mask) != 0;
#endif
}

// e^-|x| for a product that it is a factor of: a subnormal one would have lost digits that the
// product needs. So it is left 2^kGuardBits too large in the lanes that are deep, where `at` (x, or
// -|x|) is below kExpDeep, and `restored` takes that back at the end. Beside 1 it is nothing even
// then. From kExpLowest down it is 0, which changes no product whose other factors are at most
// 2^32 (float64: 2^530). Few vectors have such lanes; without the branches silu took a quarter
// longer.
template <class T> struct ExpTail {
  IntVec<T> is_deep;
  bool any_deep;
  Vec<T> e;

  DLK_INLINE ExpTail(Vec<T> x, Vec<T> at)
      : is_deep(at < Vec<T>(MathConstants<T>::kExpDeep)), any_deep(any_lane(is_deep)) {
    const Vec<T> guarded = guarded_exp(-abs(x));
    e = guarded * Vec<T>(MathConstants<T>::kGuardScale);
    if (__builtin_expect(any_deep, false))
      e = select(is_deep, guarded, e);
  }
  DLK_INLINE Vec<T> restored(Vec<T> product) const {
    if (__builtin_expect(any_deep, false))
      product = select(is_deep, product * Vec<T>(MathConstants<T>::kGuardScale), product);
    return product;
  }
};

// e^x for x <= 80, in base 2, for softmax's loops: half the reduction of exp, and 0 below 2^-126
// (its weights need no subnormals, and handling them takes a tenth of the time). Max error above
// that: 1 + 0.22 |x| ULP for float, 1 + 0.13 |x| for double (log2(e) is rounded; so is the x - max
// of a softmax, five times as much). NaN -> NaN, -inf -> 0. `rounded` receives x log2(e) rounded to
// an integer, plus kExp2Rounding, and is ordered as x is even where x is beyond the range.
template <class T>
constexpr T kExp2Rounding = MathConstants<T>::kRoundMagic + T(MathConstants<T>::kExponentBias);
template <class T> DLK_INLINE Vec<T> exp_bounded(Vec<T> x, Vec<T>& rounded) {
  using M = MathConstants<T>;
  x = max(Vec<T>(M::kExpBoundedLowest), x); // its exponent field is 0
  rounded = fma(x, Vec<T>(M::kLog2E), Vec<T>(kExp2Rounding<T>));
  const Vec<T> n = rounded - Vec<T>(kExp2Rounding<T>);
#if defined(__FMA__) || !defined(__x86_64__)
  const Vec<T> r = fma(x, Vec<T>(M::kLog2E), -n);
  const Vec<T> mantissa = fma(polynomial(r, M::kExp2), r, Vec<T>(1));
#else // x log2(e) would be rounded before n is taken away
  const Vec<T> r = (x - n * Vec<T>(M::kLn2High)) - n * Vec<T>(M::kLn2Low);
  const Vec<T> mantissa = expm1_reduced(r) + Vec<T>(1);
#endif
  return mantissa * from_bits<T>(shift_left(bits_of(rounded), M::kMantissaBits));
}

// ln x. Max error: float 1 ULP, double 1 ULP. x < 0 -> NaN, +-0 -> -inf, inf -> inf.
template <class T> DLK_INLINE Vec<T> log(Vec<T> x) {
  using M = MathConstants<T>;
  using Int = typename LaneTraits<T>::Int;
  const IntVec<T> is_subnormal = x < Vec<T>(M::kSmallestNormal);
  const Vec<T> normal = select(is_subnormal, x * Vec<T>(M::kSubnormalScale), x);
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)]
  const IntVec<T> exponent = shift_right(bits_of(normal), M::kMantissaBits);
  Vec<T> k = from_bits<T>(exponent | IntVec<T>(Int(M::kExponentMagicBits))) -
             Vec<T>(M::kExponentMagic + T(M::kExponentBias));
  k = select(is_subnormal, k - Vec<T>(M::kSubnormalExponent), k);
  Vec<T> m = from_bits<T>((bits_of(normal) & IntVec<T>(Int(M::kMantissaMask))) |
                          IntVec<T>(Int(M::kOneBits)));
  const IntVec<T> is_upper = m > Vec<T>(M::kSqrt2);
  m = select(is_upper, m * Vec<T>(T(0.5)), m);
  k = select(is_upper, k + Vec<T>(1), k);
  // ln(1 + f) = f - (f^2/2 - s (f^2/2 + z R(z))), s = f / (2 + f), z = s^2
  const Vec<T> f = m - Vec<T>(1);
  const Vec<T> s = f / (Vec<T>(2) + f);
  const Vec<T> z = s * s;
  const Vec<T> half_square = Vec<T>(T(0.5)) * f * f;
  const Vec<T> tail = fma(s, fma(z, polynomial(z, M::kLog), half_square), k * Vec<T>(M::kLn2Low));
  const Vec<T> value = fma(k, Vec<T>(M::kLn2High), f - (half_square - tail));
  const Vec<T> infinity{T(__builtin_inf())};
  Vec<T> result = select(x == infinity, infinity, value);
  result = select(x == Vec<T>(0), -infinity, result);
  return select(x >= Vec<T>(0), result, Vec<T>(T(__builtin_nan(""))));
}

// e^x - 1 for x <= 1. Max error: float 2 ULP, double 2 ULP. Keeps -0; -inf -> -1.
template <class T> DLK_INLINE Vec<T> expm1_nonpositive(Vec<T> x) {
  const Reduced<T> reduced = reduce_by_ln2(max(Vec<T>(MathConstants<T>::kExpm1Lowest), x));
  const Vec<T> scale = power_of_two(reduced.n);
  return copy_sign(fma(scale, expm1_reduced(reduced.r), scale - Vec<T>(1)), x);
}

// ln(1 + x) for 0 <= x <= 1, as log without the exponent: 1 + x or half of it lies around 1.
// Max error: float 1.5 ULP, double 1.5 ULP.
template <class T> DLK_INLINE Vec<T> log1p_unit(Vec<T> x) {
  using M = MathConstants<T>;
  const IntVec<T> is_upper = x > Vec<T>(M::kSqrt2 - 1);
  const Vec<T> f = select(is_upper, fma(x, Vec<T>(T(0.5)), Vec<T>(T(-0.5))), x);
  const Vec<T> ln2_high = select(is_upper, Vec<T>(M::kLn2High), Vec<T>(0));
  const Vec<T> ln2_low = select(is_upper, Vec<T>(M::kLn2Low), Vec<T>(0));
  const Vec<T> s = f / (Vec<T>(2) + f);
  const Vec<T> z = s * s;
  const Vec<T> half_square = Vec<T>(T(0.5)) * f * f;
  const Vec<T> tail = fma(s, fma(z, polynomial(z, M::kLog), half_square), ln2_low);
  return ln2_high + (f - (half_square - tail));
}

// tanh x = -t / (2 + t) with t = e^(-2|x|) - 1, in base 2 (whose rounded log2(e) does not matter: t
// near 0 has no whole part, t near -1 no digits of it). Max error: float 3.5 ULP, double 3.5 ULP.
// Odd, keeps -0. (Tried: a quotient of polynomials in x^2, as fast and 5.5 ULP; a series near 0 and
// 1 - 2 / (1 + e^(2|x|)) beyond, 1.4 ULP and half as much time again.)
template <class T> DLK_INLINE Vec<T> tanh(Vec<T> x) {
  using M = MathConstants<T>;
  const Vec<T> size = abs(x);
  const Vec<T> at = max(Vec<T>(M::kExpm1Lowest), -(size + size));
  const Vec<T> rounded = fma(at, Vec<T>(M::kLog2E), Vec<T>(kExp2Rounding<T>));
  const Vec<T> r = fma(at, Vec<T>(M::kLog2E), Vec<T>(kExp2Rounding<T>) - rounded);
  const Vec<T> scale = from_bits<T>(shift_left(bits_of(rounded), M::kMantissaBits));
  const Vec<T> t = fma(scale, polynomial(r, M::kExp2) * r, scale - Vec<T>(1));
  return copy_sign(t / (Vec<T>(2) + t), x);
}

// 1 / (1 + e^-x) from e^-|x|, which is at most 1. Max error: float 3 ULP, double 3 ULP.
template <class T> DLK_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> e = exp_nonpositive(-abs(x));
  return select(x < Vec<T>(0), e, Vec<T>(1)) / (Vec<T>(1) + e);
}

// ln(1 + e^x). Max error: float 2 ULP, double 2 ULP. -inf -> 0, inf -> inf.
template <class T> DLK_INLINE Vec<T> softplus(Vec<T> x) {
  return max(Vec<T>(0), x) + log1p_unit(exp_nonpositive(-abs(x)));
}

// 2^(k / 8) for the k that was rounded onto magic = kRoundMagic + a multiple of 8: a table has the
// mantissas of its eighths.
DLK_INLINE Vec<float> power_of_eighths(Vec<float> rounded) {
  alignas(32) static constexpr int32_t kMantissas[8] = {0,        0x0b95c2, 0x1837f0, 0x25fed7,
                                                        0x3504f3, 0x45672a, 0x5744fd, 0x6ac0c7};
  const IntVec<float> k = bits_of(rounded);
  return from_bits<float>((shift_left(k, 20) & IntVec<float>(int32_t(0xff800000))) |
                          lookup_eight(kMantissas, k));
}

// e^(-x^2/2) 2^kGuardBits for |x| <= kNormalLimit (no NaN), without what rounding x^2 would cost
// (the square's size in ULP): with x^2 = n 2 ln 2 / steps + r it is 2^(-n / steps) e^(-r/2), where
// one fma makes r, but for what is low in ln 2, from the exact square. Max error of it and of
// gauss: float 1.5 ULP, double 1 ULP. (Whole powers for float, with three terms more, cost gelu a
// tenth.)
template <class T> DLK_INLINE Vec<T> guarded_gauss(Vec<T> x) {
  using M = MathConstants<T>;
  constexpr T steps = T(M::kGaussSteps);
  const Vec<T> square = x * x;
  const Vec<T> magic(M::kRoundMagic + steps * T(M::kExponentBias + M::kGuardBits));
  const Vec<T> rounded = fma(square, Vec<T>(T(-0.5) * steps * M::kLog2E), magic);
  const Vec<T> n = rounded - magic, whole = n * Vec<T>(M::kGaussStepHigh); // exact
#if defined(__FMA__) || !defined(__x86_64__)
  Vec<T> r = fma(x, x, whole);
  r = fma(n, Vec<T>(M::kGaussStepLow), r);
#else // by halves whose products are exact
  const Vec<T> high = from_bits<T>(bits_of(x) & IntVec<T>(M::kHighHalfMask));
  const Vec<T> low = x - high;
  const Vec<T> lost = ((high * high - square) + Vec<T>(2) * high * low) + low * low;
  const Vec<T> r = fma(n, Vec<T>(M::kGaussStepLow), square + whole) + lost;
#endif
  Vec<T> scale;
  if constexpr (M::kGaussSteps == 8)
    scale = power_of_eighths(rounded);
  else
    scale = from_bits<T>(shift_left(bits_of(rounded), M::kMantissaBits));
  return fma(scale, polynomial(r, M::kGauss) * r, scale);
}

// e^(-x^2/2) for |x| <= kNormalLimit, not for NaN.
template <class T> DLK_INLINE Vec<T> gauss(Vec<T> x) {
  return guarded_gauss(x) * Vec<T>(MathConstants<T>::kGuardScale);
}

// The normal distribution beyond a, erfc(a / sqrt(2)) / 2, for 0 <= a <= kNormalLimit, from
// guarded_gauss(a): e^(-a^2/2) R(a) with R Mills' ratio over sqrt(2 pi), a quotient of polynomials
// with no negative coefficient. Max error: float 6.3 ULP, double 7 ULP, as long as the result is
// normal: so what it is to be multiplied by, multiplies guarded_gauss(a).
template <class T> DLK_INLINE Vec<T> normal_tail(Vec<T> a, Vec<T> guarded_gauss_of_a) {
  using M = MathConstants<T>;
  return guarded_gauss_of_a * polynomial(a, M::kMillsTop) / polynomial(a, M::kMillsBottom);
}

// The normal distribution up to x, erfc(-x / sqrt(2)) / 2, for |x| <= kNormalLimit, from
// guarded_gauss(x). Max error as normal_tail.
template <class T> DLK_INLINE Vec<T> normal_cdf(Vec<T> x, Vec<T> guarded_gauss_of_x) {
  const Vec<T> tail = normal_tail(abs(x), guarded_gauss_of_x);
  return select(x < Vec<T>(0), tail, Vec<T>(1) - tail);
}

// One value: every lane computes it, one is taken.
template <class T> DLK_INLINE T exp_scalar(T x) {
  return exp(Vec<T>(x)).part[0][0];
}
template <class T> DLK_INLINE T log_scalar(T x) {
  return log(Vec<T>(x)).part[0][0];
}
template <class T> DLK_INLINE T tanh_scalar(T x) {
  return tanh(Vec<T>(x)).part[0][0];
}

} // namespace dlk::DLK_ISA
