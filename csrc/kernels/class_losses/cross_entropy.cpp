// Softmax cross-entropy of rows whose classes lie side by side, and its gradient in the same pass.
//
//   x_c = softcap * tanh(logit_c / softcap) with a softcap, else logit_c
//   lse = log(sum_c exp x_c),   p_c = exp(x_c - lse)
//   loss = (1 - e) w_y (lse - x_y) + sum_c q_c (lse - x_c) + z_loss * lse^2
//   dloss/dx_c = p_c ((1 - e) w_y + sum q + 2 z_loss lse) - (1 - e) w_y [c = y] - q_c
//
// y is the target's class, w the class weights, e the label smoothing; q_c = w_c e / C for class
// indices, and w_c ((1 - e) t_c + e / C), without the terms of w_y, for probabilities t.
//
// Bytes per float32 logit: loss 4; loss and gradient 8 (read once; the row is still in L2 when its
// exponentials, kept in a scratch row, are scaled and streamed out).
// Why training makes the gradient in forward and saves that: forward, then backward from a saved
// log-sum-exp, is 12 bytes and two exponentials. A grad_output that is not 1 runs this kernel again
// with it: the 8 bytes that scaling the gradient would be, without float16's small values lost to a
// rounding before the scale.
//
// Error: loss and lse within 2 ULP of the type computed in; gradient within 8 eps of p_c * scale.
// The cross-entropy of a single class has no gradient: exactly 0.
// Reference: torch.nn.functional.cross_entropy; z_loss: Chowdhery et al., PaLM, 2022; softcap:
// Gemma 2.
//
// Tried and lost: the second exponential instead of the scratch row (compute doubles); a
// backward kernel from the saved log-sum-exp (no faster, and other bits than the gradient made in
// forward); writing a row between the blocks of the next (no faster, and two scratch rows crowd
// L2); fetching the next row in both phases (a quarter slower).
#include "kernels/class_losses/cross_entropy_in_registers.h"
#include "kernels/class_losses/log_sum_exp_rows.h"
#include "kernels/class_losses/targets.h"

namespace dlk::DLK_ISA {
namespace {

template <class T> struct RowKernel {
  using C = Compute<T>;
  static constexpr int64_t kLanes = Vec<C>::kLanes;

  const CrossEntropyArgs& args;
  const SoftTarget<T> soft; // without this row's probabilities
  const bool has_soft;      // q is not zero everywhere
  const bool has_indices;

  explicit RowKernel(const CrossEntropyArgs& a)
      : args(a), soft(a), has_soft(a.target_probability.data || soft.uniform != 0),
        has_indices(!a.target_probability.data) {}

  // A target's row: what it is and what multiplies it.
  struct Target {
    bool ignored = false;
    int64_t index = -1; // -1: probabilities
    double hard = 0;    // (1 - e) w_y
    SoftTarget<T> soft;
  };

  DLK_INLINE Target target_of(int64_t batch, int64_t position) const {
    Target target;
    target.soft = soft;
    if (has_indices) {
      target.index = load_index(args.target, batch, position);
      target.ignored = target.index == args.ignore_index;
      if (!target.ignored)
        target.hard = double(soft.keep) *
                      (soft.weight ? double(load_scalar(soft.weight + target.index)) : 1.0);
    } else {
      target.soft.probability = static_cast<const T*>(args.target_probability.data) +
                                element_offset(args.target_probability, batch, position);
    }
    return target;
  }

  // --- one block of a row

  // Sum of q over a block.
  static DLK_BLOCK double mass_of(const SoftTarget<T>& target, int64_t first, int64_t size) {
    Vec<C> sum(C(0));
    for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
      sum = sum + zero_beyond(target.at(first + i, lanes), lanes);
    });
    return double(sum_lanes(sum));
  }

  // Sum of q (x - anchor) over a block.
  template <class S>
  static DLK_BLOCK double dot_of(const SoftTarget<T>& target, int64_t first, const S* x,
                                 int64_t size, C anchor) {
    const Vec<C> shift(anchor);
    Vec<C> sum(C(0));
    for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> q = zero_beyond(target.at(first + i, lanes), lanes);
      sum = fma(q, load_lanes(x + i, lanes, anchor) - shift, sum);
    });
    return double(sum_lanes(sum));
  }

  // grad = (exps * factor - q * scale - [c = y] * hard) * (1 - tanh^2) for a block. Writing is
  // bound by memory, so the next row's logits, at `next`, are fetched into L2 meanwhile: its own
  // pass then waits for nothing (22 % of the whole at 32000 classes).
  DLK_BLOCK void write_block(const Target& target, int64_t first, const T* x, const C* exps,
                             int64_t size, C factor, C scale, C hard, const T* next,
                             T* grad) const {
    const bool is_plain =
        !has_soft && args.softcap == 0 && !(target.index >= first && target.index < first + size);
    if (is_plain) {
      for_each_vec_to(grad, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        __builtin_prefetch(next + i, 0, 2);
        store_lanes(grad + i, load_lanes(exps + i, lanes) * Vec<C>(factor), lanes);
      });
      return;
    }
    using Int = typename LaneTraits<C>::Int;
    const Int hit =
        target.index >= first && target.index < first + size ? Int(target.index - first) : Int(-1);
    const IntVec<C> indices = lane_indices<C>();
    for_each_vec_to(grad, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      Vec<C> g = load_lanes(exps + i, lanes) * Vec<C>(factor);
      if (has_soft)
        g = fma(target.soft.at(first + i, lanes), Vec<C>(-scale), g);
      g = g - select(equal(indices, IntVec<C>(Int(hit - i))), Vec<C>(hard), Vec<C>(C(0)));
      if (args.softcap != 0) {
        const Vec<C> t = squashed(load_lanes(x + i, lanes), args.softcap);
        g = g * fma(-t, t, Vec<C>(C(1)));
      }
      store_lanes(grad + i, g, lanes);
    });
  }

  // --- one row

  // Its loss; with kGrad its gradient too, through the scratch row.
  template <bool kGrad>
  void forward_row(const T* x, const T* next, const Target& target, double grad_output, T* grad,
                   const RowScratch<C>& scratch, double& ce, double& lse) const {
    constexpr int64_t block_elems = row_block_elems(sizeof(C));
    alignas(kVecBytes) C block[block_elems];
    RowExpSum<C> row;
    CompensatedSum mass, dot;
    double target_value = 0;
    // `values` are the block's logits, softcapped or as they lie
    const auto add_block = [&](const auto* values, int64_t first, int64_t size) DLK_BODY {
      const double old = double(row.anchor);
      const C anchor =
          row.template add<kGrad>(values, size, scratch.exps + first, x + first + kRowBlockElems);
      if constexpr (kGrad)
        scratch.anchors[first / block_elems] = anchor;
      if (has_soft) {
        if (old != double(row.anchor))
          dot.add(mass.total() * (old - double(row.anchor)));
        mass.add(mass_of(target.soft, first, size));
        dot.add(dot_of(target.soft, first, values, size, row.anchor));
      }
      if (target.index >= first && target.index < first + size)
        target_value = double(load_scalar(values + (target.index - first)));
    };
    for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
      if (args.softcap == 0)
        return add_block(x + first, first, size);
      cap_values(x + first, size, args.softcap, block);
      add_block(static_cast<const C*>(block), first, size);
    });
    const double sum = row.sum.total(), log_sum = log_scalar(sum);
    lse = double(row.anchor) + log_sum;
    if (target.ignored)
      return;
    // the parts that are not used must not turn an infinite value into NaN
    ce = 0;
    if (target.index >= 0) {
      const double gap = double(row.anchor) - target_value + log_sum;
      ce += target.hard * (gap < 0 ? 0 : gap); // lse >= x_y but for rounding
    }
    if (has_soft)
      ce += mass.total() * log_sum - dot.total();
    if constexpr (kGrad) {
      const double scale = cross_entropy_scale(args) * grad_output;
      const double coefficient =
          scale * (target.hard + mass.total()) + grad_output * args.z_scale * 2 * args.z_loss * lse;
      for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
        double factor = coefficient / sum;
        const C block_anchor = scratch.anchors[first / block_elems];
        if (block_anchor != row.anchor)
          factor *= exp_scalar(double(block_anchor) - double(row.anchor));
        write_block(target, first, x + first, scratch.exps + first, size, C(factor), C(scale),
                    C(scale * target.hard), next + first, grad + first);
      });
    }
  }

  static DLK_BLOCK void clear(T* grad, int64_t classes) {
    for_each_vec<C>(classes, [&](int64_t i, auto lanes)
                                 DLK_BODY { store_lanes(grad + i, Vec<C>(C(0)), lanes); });
  }
};

template <class T, bool kGrad> void forward(CrossEntropyArgs& args) {
  using C = Compute<T>;
  const RowKernel<T> kernel(args);
  const int64_t rows = args.batches * args.positions, per_chunk = row_chunk(args.classes);
  const int64_t chunks = chunk_count(rows, per_chunk);
  parallel_chunks(chunks, rows * args.classes, [&](int64_t begin, int64_t end, int thread) {
    const RowScratch<C> scratch(args.scratch, args.scratch_bytes_per_thread, thread, args.classes);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      CompensatedSum chunk_loss;
      const int64_t stop = (chunk + 1) * per_chunk < rows ? (chunk + 1) * per_chunk : rows;
      for (int64_t row = chunk * per_chunk; row < stop; ++row) {
        const int64_t batch = row / args.positions, position = row % args.positions;
        const T* x =
            static_cast<const T*>(args.logits.data) + element_offset(args.logits, batch, position);
        const T* next = position + 1 < args.positions ? x + args.logits.position_stride
                                                      : x + args.logits.batch_stride;
        T* grad = kGrad ? static_cast<T*>(args.grad_logits.data) +
                              element_offset(args.grad_logits, batch, position)
                        : nullptr;
        const auto target = kernel.target_of(batch, position);
        double ce = 0, lse = 0;
        if (args.row_argmax && (!target.ignored || args.visit_ignored))
          args.row_argmax[row] = argmax_strided(x, 1, args.classes);
        if (target.ignored) {
          if (args.visit_ignored)
            kernel.template forward_row<false>(x, x, target, 0, nullptr, scratch, ce, lse);
          if (kGrad)
            RowKernel<T>::clear(grad, args.classes);
        } else {
          kernel.template forward_row<kGrad>(x, next, target, grad_output_of<T>(args, row), grad,
                                             scratch, ce, lse);
          chunk_loss.add(args.row_scale * ce + args.z_scale * args.z_loss * lse * lse);
        }
        if (args.row_lse)
          args.row_lse[row] = lse;
        if (args.row_loss)
          store_scalar(static_cast<T*>(args.row_loss) + row,
                       C(target.ignored ? 0 : ce + args.z_loss * lse * lse));
      }
      keep_partial(args, chunk, chunk_loss);
    }
  });
  args.loss_sum = sum_of_partials(args, chunks);
}

} // namespace

void cross_entropy(CrossEntropyArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    if (takes_short_rows<T>(args))
      return args.grad_logits.data ? short_cross_entropy<T, true>(args)
                                   : short_cross_entropy<T, false>(args);
    args.grad_logits.data ? forward<T, true>(args) : forward<T, false>(args);
  });
}

} // namespace dlk::DLK_ISA
