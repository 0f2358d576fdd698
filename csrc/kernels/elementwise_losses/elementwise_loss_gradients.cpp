// The gradients of the elementwise losses, with the losses' sum in the same pass or without it; one
// loop for all of them, the mathematics in functors.h.
//
// Bytes per float32 element: 4 for each operand that is an array of its own, 4 for each gradient:
// 12 for a loss of two arrays and the gradient of its input (torch: 32 for mse_loss, 84 for
// binary_cross_entropy_with_logits). A gradient is what the functor gives times the gradient of the
// loss and the scale, rounded once for each product; one that still has to be summed, along the
// dimensions in which its operand was broadcast, is not rounded to a half type first.
// Reference: autograd of torch.nn.functional.
#include "kernels/elementwise_losses/loss_loops.h"

namespace dlk::DLK_ISA {
namespace {

template <class T, bool kWithValue, class Loss> void gradients(LossArgs& args, const Loss loss) {
  using C = Compute<T>;
  const Vec<C> scale(C(args.scale)), third_offset(C(args.third_offset));
  const bool wide_input = args.results[kGradInput].wide,
             wide_target = args.results[kGradTarget].wide,
             wide_third = args.results[kGradThird].wide;
  for_each_piece<T>(args, [&](int64_t begin, int64_t end) {
    WideSum sum;
    BadLanes<C> bad;
    for_each_line<T>(args, begin, end, [&](const LossLine<T>& line, int64_t size) DLK_BODY {
      const LossReader<T, Loss> operands(line);
      const LossStream<T> grad_output = line.operands[kLossGradOutput];
      T* each = line.results[kEachLoss];
      T* d_input = line.results[kGradInput];
      T* d_target = line.results[kGradTarget];
      T* d_third = line.results[kGradThird];
      for_each_step(line, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        const LossOperands<C> o = operands.at(i, lanes);
        const auto at = loss.at(o);
        Vec<C> factor = scale;
        if constexpr (kWithValue) {
          if constexpr (Loss::kChecks)
            loss.check(o, bad);
          const Vec<C> value = at.value();
          sum.add(zero_beyond(value, lanes));
          if (each)
            store_lanes(each + i, value, lanes);
        } else {
          factor = scale * grad_output.at(i, lanes);
        }
        if (d_input)
          store_result(d_input, i, wide_input, at.d_input() * factor, lanes);
        if (Loss::kOperands > 1 && d_target)
          store_result(d_target, i, wide_target, at.d_target() * factor, lanes);
        if (Loss::kOperands > 2 && d_third)
          store_result(d_third, i, wide_third, (at.d_third() - third_offset) * factor, lanes);
      });
    });
    if constexpr (kWithValue && Loss::kChecks)
      report(args, bad);
    return sum.total();
  });
}

} // namespace

void elementwise_loss_gradients(LossArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    with_loss<T>(args, [&](auto loss) {
      args.with_value ? gradients<T, true>(args, loss) : gradients<T, false>(args, loss);
    });
  });
}

} // namespace dlk::DLK_ISA
