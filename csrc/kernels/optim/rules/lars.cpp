// LARS: SGD with a rate that is each parameter's own, by the norms of the parameter and of its
// gradient; over any number of arrays in two parallel regions.
//
//   g = maximize ? -grad : grad
//   d = lr * trust_coefficient * |p| / (|grad| + weight_decay * |p| + eps) * (g + weight_decay * p)
//   b = first step ? d : momentum * b + (1 - dampening) * d
//   p = p - (nesterov ? d + momentum * b : b)               (b = d without momentum)
//
// A ratio of norms is 1 where one of the two is 0. |x| is the Euclidean norm, of float64 sums over
// the whole parameter. As in its paper, b holds steps with their learning rate, unlike torch's
// SGD.
//
// Each product and sum is one fma where written as such below; square root and divisions are
// correctly rounded. Half types compute in float32 and round the parameter and each state once.
//
// Bytes per float32 element: 28 with momentum (8 + 20), 20 without; in place, so ordinary stores.
// Reference: You, Gitman and Ginsburg 2017 (arXiv 1708.03888, algorithm 1).
#include "kernels/optim/norms.h"

namespace dlk::DLK_ISA {
namespace {

// Numbers: lr, momentum, 1 - dampening, weight decay, nesterov, maximize, first step, trust
// coefficient, eps. States: [momentum_buffer].

template <class Kind> struct LarsSums {
  using C = typename Kind::C;
  static constexpr bool kIsLast = false;
  static constexpr int kReads = 0b00011, kWrites = 0;
  Wide<C> sums[2] = {wide_zero<C>(), wide_zero<C>()};

  explicit LarsSums(const double*) {}

  DLK_INLINE void step(Vec<C>* x) {
    for (int k = 0; k < 2; ++k) {
      const Wide<C> wide = widen(x[k]);
      sums[k] = fma(wide, wide, sums[k]);
    }
  }
};

template <bool kHasMomentum> struct Lars {
  template <class Kind> struct Step {
    using C = typename Kind::C;
    static constexpr bool kIsLast = true;
    static constexpr int kReads = kHasMomentum ? 0b00111 : 0b00011;
    static constexpr int kWrites = kHasMomentum ? 0b00101 : 0b00001;
    const Vec<C> rate, momentum, keep;
    const GradientTerm<C> gradient;
    const bool nesterov, first_step;

    Step(const double* n, double factor)
        : rate(C(factor)), momentum(C(n[1])), keep(C(n[2])), gradient(n[3], n[5]),
          nesterov(n[4] != 0), first_step(n[6] != 0) {}

    DLK_INLINE void step(Vec<C>* x) const {
      Vec<C> d = gradient(x[1], x[0]) * rate;
      if constexpr (kHasMomentum) {
        x[2] = first_step ? d : fma(d, keep, x[2] * momentum);
        d = nesterov ? fma(x[2], momentum, d) : x[2];
      }
      x[0] = x[0] - d;
    }
  };
};

double lars_rate(const double* n, double param_sum, double grad_sum) {
  const double param = __builtin_sqrt(param_sum), grad = __builtin_sqrt(grad_sum);
  return n[0] * (param == 0 || grad == 0 ? 1 : n[7] * param / (grad + n[3] * param + n[8]));
}

} // namespace

void lars(OptimizerArgs& args) noexcept {
  sum_pieces<LarsSums>(args);
  combine_sums(args, lars_rate);
  each_piece(args, [&](int64_t index) {
    if (args.arrays[args.chunks[index].array].streams[2])
      step_piece<Lars<true>::Step>(args, index);
    else
      step_piece<Lars<false>::Step>(args, index);
  });
}

} // namespace dlk::DLK_ISA
