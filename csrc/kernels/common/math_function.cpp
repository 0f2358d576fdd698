// The functions of simd/math.h by themselves, so that their stated accuracy can be tested on every
// level. Nothing in the library calls this.
#include "kernels/common/args.h"
#include "simd/loops.h"
#include "simd/math.h"

namespace dlk::DLK_ISA {
namespace {

template <class T, class F> void apply(const MathFunctionArgs& args, F f) {
  const T* x = static_cast<const T*>(args.input);
  T* y = static_cast<T*>(args.output);
  for_each_vec<T>(args.size, [&](int64_t i, auto lanes) DLK_BODY {
    store_lanes(y + i, f(load_lanes(x + i, lanes)), lanes);
  });
}

// x, or a number where it is NaN, which gauss does not take.
template <class T> DLK_INLINE Vec<T> number_in(Vec<T> x) {
  return min(x, Vec<T>(MathConstants<T>::kNormalLimit));
}

template <class T> void run(const MathFunctionArgs& args) {
  switch (args.function) {
  case 0:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return exp(x); });
  case 1:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return exp_nonpositive(x); });
  case 2:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return log(x); });
  case 3:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return tanh(x); });
  case 4:
    return apply<T>(args, [](Vec<T> x) DLK_BODY {
      Vec<T> rounded;
      return exp_bounded(x, rounded);
    });
  case 5:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return expm1_nonpositive(x); });
  case 6:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return log1p_unit(x); });
  case 7:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return sigmoid(x); });
  case 8:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return softplus(x); });
  case 9:
    return apply<T>(args, [](Vec<T> x) DLK_BODY { return gauss(number_in(x)) + (x - x); });
  default:
    return apply<T>(args,
                    [](Vec<T> x) DLK_BODY { return normal_cdf(x, guarded_gauss(number_in(x))); });
  }
}

} // namespace

void math_function(MathFunctionArgs& args) noexcept {
  args.dtype == DType::float64 ? run<double>(args) : run<float>(args);
}

} // namespace dlk::DLK_ISA
