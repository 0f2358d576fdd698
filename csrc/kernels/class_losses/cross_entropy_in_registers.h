// Cross-entropy of class indices over rows so short that they stay in registers
// (softmax_in_registers.h): a row of ten classes is a quarter of the instructions that it is in
// blocks and through a scratch row. The same operations in the same order, so the same bits; the
// logarithms of several rows are one vector's.
#pragma once

#include "kernels/class_losses/softmax_in_registers.h"
#include "kernels/class_losses/targets.h"

#include <type_traits>

namespace dlk::DLK_ISA {

// Whether the rows are short and nothing but their plain loss and gradient is asked for.
template <class T> DLK_INLINE bool takes_short_rows(const CrossEntropyArgs& args) {
  return is_short_row<T>(args.classes) && !args.target_probability.data &&
         !(args.label_smoothing > 0) && args.z_loss == 0 && args.softcap == 0 &&
         !args.visit_ignored && !args.nontemporal;
}

template <class T, bool kGrad, class Rows> struct ShortCrossEntropy {
  using C = Compute<T>;
  using Values = typename Rows::template Values<1>;
  static constexpr int kGroup = Vec<double>::kLanes;

  const CrossEntropyArgs& args;
  const Rows& rows;

  // The gradient of a row that e^(x - shift) is left of: e * factor - [c = y] * hard.
  DLK_INLINE void write_gradient(const Values& e, C factor, C hard, int64_t index, T* grad) const {
    using Int = typename LaneTraits<C>::Int;
    const IntVec<C> indices = lane_indices<C>();
    Values result;
    Rows::template each<1>([&](int row, int i) DLK_BODY {
      const IntVec<C> hit(Int(index - i * Vec<C>::kLanes));
      result.of[row][i] =
          e.of[row][i] * Vec<C>(factor) - select(equal(indices, hit), Vec<C>(hard), Vec<C>(C(0)));
    });
    rows.template write<1>({grad}, result);
  }

  DLK_INLINE void clear(T* grad) const {
    Values zero;
    Rows::template each<1>([&](int row, int i) DLK_BODY { zero.of[row][i] = Vec<C>(C(0)); });
    rows.template write<1>({grad}, zero);
  }

  // The sum of the losses of rows [first, stop).
  double operator()(int64_t first, int64_t stop) const {
    alignas(kVecBytes) double sums[kGroup], gaps[kGroup], hards[kGroup];
    bool ignored[kGroup];
    const T* weight = static_cast<const T*>(args.weight);
    CompensatedSum loss;
    int64_t batch = first / args.positions, position = first % args.positions;
    for (; first < stop; first += kGroup) {
      const int count = stop - first < kGroup ? int(stop - first) : kGroup;
      store(sums, Vec<double>(1));
      for (int i = 0; i < count; ++i) {
        const int64_t index = load_index(args.target, batch, position);
        const T* x =
            static_cast<const T*>(args.logits.data) + element_offset(args.logits, batch, position);
        T* grad = kGrad ? static_cast<T*>(args.grad_logits.data) +
                              element_offset(args.grad_logits, batch, position)
                        : nullptr;
        if (++position == args.positions) {
          position = 0;
          ++batch;
        }
        ignored[i] = index == args.ignore_index;
        if (ignored[i]) {
          if constexpr (kGrad)
            clear(grad);
          continue;
        }
        hards[i] = weight ? double(load_scalar(weight + index)) : 1.0;
        const double target_value = double(load_scalar(x + index)); // grad may lie over x
        Values e;
        Vec<C> shift[1], total[1];
        rows.template exponentials<1>({x}, e, shift, total);
        sums[i] = double(total[0].part[0][0]);
        gaps[i] = double(shift[0].part[0][0]) - target_value;
        if constexpr (kGrad) {
          const double scale = args.row_scale * grad_output_of<T>(args, first + i) * hards[i];
          write_gradient(e, C(scale / sums[i]), C(scale), index, grad);
        }
      }
      store(sums, log(load(sums)));
      for (int i = 0; i < count; ++i) {
        double value = 0;
        if (!ignored[i]) {
          const double gap = gaps[i] + sums[i];    // not negative but for rounding
          value += hards[i] * (gap < 0 ? 0 : gap); // a negative weight leaves no -0
          loss.add(args.row_scale * value);
        }
        if (args.row_loss)
          store_scalar(static_cast<T*>(args.row_loss) + first + i, C(value));
      }
    }
    return loss.total();
  }
};

template <class T, bool kGrad> void short_cross_entropy(CrossEntropyArgs& args) {
  const int64_t count = args.batches * args.positions, per_chunk = row_chunk(args.classes);
  const int64_t chunks = chunk_count(count, per_chunk);
  with_short_rows<T>(args.classes, false, [&](const auto rows) {
    const ShortCrossEntropy<T, kGrad, std::decay_t<decltype(rows)>> kernel{args, rows};
    parallel_chunks(chunks, count * args.classes, [&](int64_t begin, int64_t end, int) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t stop = (chunk + 1) * per_chunk;
        args.loss_partials[chunk] = kernel(chunk * per_chunk, stop < count ? stop : count);
      }
    });
  });
  CompensatedSum sum;
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    sum.add(args.loss_partials[chunk]);
  args.loss_sum = sum.total();
}

} // namespace dlk::DLK_ISA
