// The elementwise losses, forward: their sum, the sums of lines, or each loss; one loop for all of
// them, the mathematics in functors.h.
//
// Bytes per float32 element: 4 for each operand that is an array of its own (broadcast ones are
// read through their strides), 4 more where each loss is wanted. Every loss is rounded once to
// float and summed in double, piece by piece, so a sum is as good as its addends.
// Reference: the functions of torch.nn.functional; torch writes the losses to memory and reads them
// again.
#include "kernels/elementwise_losses/loss_loops.h"

namespace dlk::DLK_ISA {
namespace {

template <class T, class Loss> void forward(LossArgs& args, const Loss loss) {
  using C = Compute<T>;
  for_each_piece<T>(args, [&](int64_t begin, int64_t end) {
    WideSum sum;
    BadLanes<C> bad;
    for_each_line<T>(args, begin, end, [&](const LossLine<T>& line, int64_t size) DLK_BODY {
      const LossReader<T, Loss> operands(line);
      T* each = line.results[kEachLoss];
      for_each_step(line, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        const LossOperands<C> o = operands.at(i, lanes);
        if constexpr (Loss::kChecks)
          loss.check(o, bad);
        const Vec<C> value = loss.at(o).value();
        sum.add(zero_beyond(value, lanes));
        if (each)
          store_lanes(each + i, value, lanes);
      });
    });
    if constexpr (Loss::kChecks)
      report(args, bad);
    return sum.total();
  });
}

} // namespace

void elementwise_loss(LossArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    with_loss<T>(args, [&](auto loss) { forward<T>(args, loss); });
  });
}

} // namespace dlk::DLK_ISA
