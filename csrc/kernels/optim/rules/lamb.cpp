// LAMB: Adam with a rate that is each parameter's own, by the norms of the parameter and of its
// step; over any number of arrays in two parallel regions.
//
//   g = maximize ? -grad : grad
//   m = m + (1 - beta1) * (g - m);   v = beta2 * v + ((1 - beta2) * g) * g
//   u = (m / (1 - beta1^t)) / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay * p
//   p = p - lr * (|p| / |u|) * u
//
// A ratio of norms is 1 where one of the two is 0. |x| is the Euclidean norm, of float64 sums over
// the whole parameter. The first pass updates m and v and sums, the second computes u again
// from them, which moves fewer bytes than u written and read; where m and v are rounded when
// stored, the second pass updates them, from the same numbers as the first. 0 / 0 counts as 0 in u:
// an element without a gradient so far stays, whatever eps is.
//
// Each product and sum is one fma where written as such below; square root and divisions are
// correctly rounded. Half types compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 40 (24 + 16; half types 22, 8 + 14); in place, so ordinary stores.
// Reference: You et al. 2020 (arXiv 1904.00962, algorithm 2, phi the identity).
#include "kernels/optim/norms.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: lr, 1 - beta1, beta2, 1 - beta2, 1 / bias correction 1, sqrt(bias correction 2), eps,
// weight decay, maximize. States: exp_avg, exp_avg_sq.
template <class C> struct LambUpdate {
  const Vec<C> beta2, one_minus_beta2, inverse_correction1, correction2, eps, weight_decay;
  const Lerp<C> lerp;
  const GradientTerm<C> gradient;

  explicit LambUpdate(const double* n)
      : beta2(C(n[2])), one_minus_beta2(C(n[3])), inverse_correction1(C(n[4])),
        correction2(C(n[5])), eps(C(n[6])), weight_decay(C(n[7])), lerp(n[1]), gradient(0, n[8]) {}

  DLK_INLINE void average(Vec<C>* x) const {
    const Vec<C> g = gradient(x[1], x[0]);
    x[2] = lerp(x[2], g);
    x[3] = fma(one_minus_beta2 * g, g, x[3] * beta2);
  }
  DLK_INLINE Vec<C> update(const Vec<C>* x) const {
    const Vec<C> denominator = sqrt(x[3]) / correction2 + eps;
    const Vec<C> u = (x[2] * inverse_correction1) / denominator;
    return fma(weight_decay, x[0], select(x[2] == Vec<C>(0), x[2], u));
  }
};

template <class Kind> struct LambSums : LambUpdate<typename Kind::C> {
  using C = typename Kind::C;
  static constexpr bool kIsLast = false;
  static constexpr int kReads = 0b01111, kWrites = Kind::kRounds ? 0 : 0b01100;
  Wide<C> sums[2] = {wide_zero<C>(), wide_zero<C>()};

  using LambUpdate<C>::LambUpdate;

  DLK_INLINE void step(Vec<C>* x) {
    this->average(x);
    const Wide<C> p = widen(x[0]), u = widen(this->update(x));
    sums[0] = fma(p, p, sums[0]);
    sums[1] = fma(u, u, sums[1]);
  }
};

template <class Kind> struct LambStep : LambUpdate<typename Kind::C> {
  using C = typename Kind::C;
  static constexpr bool kIsLast = true;
  static constexpr int kReads = Kind::kRounds ? 0b01111 : 0b01101;
  static constexpr int kWrites = Kind::kRounds ? 0b01101 : 0b00001;
  const Vec<C> negative_rate;

  LambStep(const double* n, double factor) : LambUpdate<C>(n), negative_rate(C(-factor)) {}

  DLK_INLINE void step(Vec<C>* x) const {
    if constexpr (Kind::kRounds)
      this->average(x);
    x[0] = fma(this->update(x), negative_rate, x[0]);
  }
};

double lamb_rate(const double* n, double param_sum, double update_sum) {
  return n[0] * (param_sum == 0 || update_sum == 0 ? 1 : __builtin_sqrt(param_sum / update_sum));
}

} // namespace

void lamb(OptimizerArgs& args) noexcept {
  sum_pieces<LambSums>(args);
  combine_sums(args, lamb_rate);
  each_piece(args, [&](int64_t index) { step_piece<LambStep>(args, index); });
}

} // namespace dlk::DLK_ISA
