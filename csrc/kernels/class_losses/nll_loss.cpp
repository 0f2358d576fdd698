// Negative log-likelihood of class targets, from log-probabilities: loss = -w_y x_y, and its
// backward, which writes -w_y * grad_output in the target's place and zeros elsewhere.
//
// Bytes: forward one element a row; backward 4 per element (written once, the zeros and the target
// in one pass over a row that is in L1). Error: one rounding; the sum in double.
// Reference: torch.nn.functional.nll_loss.
#include "kernels/class_losses/targets.h"

namespace dlk::DLK_ISA {
namespace {

template <class T> void forward(NllLossArgs& args) {
  using C = Compute<T>;
  const T* weight = static_cast<const T*>(args.weight);
  const int64_t rows = args.batches * args.positions;
  const int64_t chunks = chunk_count(rows, kNllChunkRows);
  parallel_chunks(chunks, rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      CompensatedSum sum;
      const int64_t stop = (chunk + 1) * kNllChunkRows < rows ? (chunk + 1) * kNllChunkRows : rows;
      for (int64_t row = chunk * kNllChunkRows; row < stop; ++row) {
        const int64_t batch = row / args.positions, position = row % args.positions;
        const int64_t target = load_index(args.target, batch, position);
        double loss = 0;
        if (target != args.ignore_index) {
          const T* x = static_cast<const T*>(args.log_probabilities.data) +
                       element_offset(args.log_probabilities, batch, position);
          loss = -double(load_scalar(x + target * args.log_probabilities.class_stride));
          if (weight)
            loss *= double(load_scalar(weight + target));
        }
        sum.add(loss);
        if (args.row_loss)
          store_scalar(static_cast<T*>(args.row_loss) + row, C(loss));
      }
      args.loss_partials[chunk] = sum.total();
    }
  });
  CompensatedSum sum;
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    sum.add(args.loss_partials[chunk]);
  args.loss_sum = sum.total();
}

template <class T> struct Scatter {
  using C = Compute<T>;
  const NllLossArgs& args;

  T* grad_at(int64_t batch, int64_t position) const {
    return static_cast<T*>(args.grad_input.data) + element_offset(args.grad_input, batch, position);
  }

  void write_target(int64_t batch, int64_t position) const {
    const int64_t target = load_index(args.target, batch, position);
    if (target == args.ignore_index)
      return;
    double value = -args.row_scale;
    if (args.grad_output_rows)
      value *= double(load_scalar(static_cast<const T*>(args.grad_output_rows) +
                                  batch * args.positions + position));
    if (args.weight)
      value *= double(load_scalar(static_cast<const T*>(args.weight) + target));
    store_scalar(grad_at(batch, position) + target * args.grad_input.class_stride, C(value));
  }

  static void clear(T* data, int64_t size) {
    for_each_vec<C>(size, [&](int64_t i, auto lanes)
                              DLK_BODY { store_lanes(data + i, Vec<C>(C(0)), lanes); });
  }
};

template <class T> void backward(NllLossArgs& args) {
  const Scatter<T> scatter{args};
  const int64_t rows = args.batches * args.positions;
  if (args.grad_input.class_stride == 1) {
    const int64_t per_chunk = row_chunk(args.classes);
    parallel_chunks(chunk_count(rows, per_chunk), rows * args.classes,
                    [&](int64_t begin, int64_t end, int) {
                      const int64_t stop = end * per_chunk < rows ? end * per_chunk : rows;
                      for (int64_t row = begin * per_chunk; row < stop; ++row) {
                        const int64_t batch = row / args.positions, position = row % args.positions;
                        Scatter<T>::clear(scatter.grad_at(batch, position), args.classes);
                        scatter.write_target(batch, position);
                      }
                    });
    return;
  }
  const int64_t tiles = chunk_count(args.positions, kPlaneTile);
  parallel_chunks(args.batches * tiles, rows * args.classes, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t batch = tile / tiles, first = tile % tiles * kPlaneTile;
      const int64_t left = args.positions - first;
      const int64_t positions = left < kPlaneTile ? left : kPlaneTile;
      for (int64_t c = 0; c < args.classes; ++c)
        Scatter<T>::clear(scatter.grad_at(batch, first) + c * args.grad_input.class_stride,
                          positions);
      for (int64_t s = 0; s < positions; ++s)
        scatter.write_target(batch, first + s);
    }
  });
}

} // namespace

void nll_loss(NllLossArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { forward<decltype(type)>(args); });
}

void nll_loss_backward(NllLossArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { backward<decltype(type)>(args); });
}

} // namespace dlk::DLK_ISA
