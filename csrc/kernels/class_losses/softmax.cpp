// softmax and log_softmax along one axis, forward and backward.
//
//   y_c = e^(x_c - lse)    or    y_c = x_c - lse
//   dx = y (g - sum g y)   or    dx = g - e^y sum g
//
// Bytes per float32 element: forward 8, backward 12. A row of up to four vectors stays in registers
// (softmax_in_registers.h). Of a longer row the exponentials (for log_softmax the row itself) are
// read again from L2; where the axis is strided, the same holds for a tile of up to 64 positions
// (log_sum_exp_planes.h; from 8192 classes on: 12, and one more exponential).
//
// Error: 4 ULP forward; backward 8 eps of the terms. Sums of blocks (row_block_elems) are combined
// in double. Rows have the same bits whatever their strides.
// Reference: torch.softmax, torch.log_softmax.
#include "kernels/class_losses/softmax_in_registers.h"
#include "kernels/class_losses/softmax_planes.h"

namespace dlk::DLK_ISA {
namespace {

template <class T>
void forward_row(const SoftmaxArgs& args, const T* x, T* y, const RowScratch<Compute<T>>& scratch) {
  using C = Compute<T>;
  constexpr int64_t block = row_block_elems(sizeof(C));
  RowExpSum<C> row;
  for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    const T* ahead = x + first + kRowBlockElems;
    scratch.anchors[first / block] =
        args.logarithm ? row.template add<false>(x + first, size, scratch.exps, ahead)
                       : row.template add<true>(x + first, size, scratch.exps + first, ahead);
  });
  const double sum = row.sum.total(), log_sum = args.logarithm ? log_scalar(sum) : 0;
  for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    if (args.logarithm) {
      const Vec<C> shift(row.anchor), log_sum_vec{C(log_sum)}, zero(C(0));
      for_each_vec_to(y + first, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        const Vec<C> value = load_lanes(x + first + i, lanes);
        store_lanes(y + first + i, min(zero, (value - shift) - log_sum_vec), lanes);
      });
      return;
    }
    double scale = 1 / sum;
    const C block_anchor = scratch.anchors[first / block];
    if (block_anchor != row.anchor)
      scale *= exp_scalar(double(block_anchor) - double(row.anchor));
    const Vec<C> factor{C(scale)};
    for_each_vec_to(y + first, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      store_lanes(y + first + i, load_lanes(scratch.exps + first + i, lanes) * factor, lanes);
    });
  });
}

template <class T> void backward_row(const SoftmaxArgs& args, const T* y, const T* g, T* dx) {
  using C = Compute<T>;
  CompensatedSum sum;
  for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    Vec<C> part(C(0));
    for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> grad = load_lanes(g + first + i, lanes);
      part = args.logarithm ? part + grad : fma(grad, load_lanes(y + first + i, lanes), part);
    });
    sum.add(double(sum_lanes(part)));
  });
  const Vec<C> total{C(sum.total())};
  for_each_vec_to(dx, args.classes, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
    const Vec<C> grad = load_lanes(g + i, lanes), out = load_lanes(y + i, lanes);
    store_lanes(dx + i, args.logarithm ? fma(-exp(out), total, grad) : out * (grad - total), lanes);
  });
}

template <class T> const T* at(const ClassArray& a, int64_t batch, int64_t position) {
  return static_cast<const T*>(a.data) + element_offset(a, batch, position);
}
template <class T> T* at_output(const SoftmaxArgs& args, int64_t batch, int64_t position) {
  return static_cast<T*>(args.output.data) + element_offset(args.output, batch, position);
}

// Row after row.
struct RowAt {
  int64_t positions, batch, position;

  DLK_INLINE RowAt(int64_t positions, int64_t row)
      : positions(positions), batch(row / positions), position(row % positions) {}
  DLK_INLINE void advance() {
    if (++position == positions) {
      position = 0;
      ++batch;
    }
  }
};

// Whether every row of the output starts where whole vectors can be streamed.
template <class T> bool streams_rows(const SoftmaxArgs& args) {
  constexpr int64_t step = Vec<Compute<T>>::kLanes;
  const ClassArray& output = args.output;
  return args.nontemporal && reinterpret_cast<uintptr_t>(output.data) % (step * sizeof(T)) == 0 &&
         output.batch_stride % step == 0 && output.position_stride % step == 0;
}

// Where the next rows are, kRows or less.
template <class T, int kRows> struct NextRows {
  const T* x[kRows];
  T* y[kRows];

  DLK_INLINE NextRows(const SoftmaxArgs& args, RowAt& row, int count = kRows) {
    for (int i = 0; i < count; ++i, row.advance()) {
      x[i] = at<T>(args.input, row.batch, row.position);
      y[i] = at_output<T>(args, row.batch, row.position);
    }
  }
};

template <class T, class Rows>
DLK_INLINE void forward_short_rows(const SoftmaxArgs& args, const Rows& rows, RowAt& row,
                                   int64_t left) {
  constexpr int kLanes = int(Vec<Compute<T>>::kLanes);
  if (args.logarithm) {
    for (; left > 0; left -= kLanes) {
      const int count = left < kLanes ? int(left) : kLanes;
      const NextRows<T, kLanes> next(args, row, count);
      rows.log_softmax(count, next.x, next.y);
    }
    return;
  }
  for (; left >= 2; left -= 2) {
    const NextRows<T, 2> next(args, row);
    rows.template softmax<2>(next.x, next.y);
  }
  if (left) {
    const NextRows<T, 1> next(args, row);
    rows.template softmax<1>(next.x, next.y);
  }
}

template <class T, bool kBackward> void short_rows(SoftmaxArgs& args) {
  const int64_t count = args.batches * args.positions, per_chunk = row_chunk(args.classes);
  with_short_rows<T>(args.classes, streams_rows<T>(args), [&](const auto rows) {
    parallel_chunks(chunk_count(count, per_chunk), count * args.classes,
                    [&](int64_t begin, int64_t end, int) {
                      const int64_t stop = end * per_chunk < count ? end * per_chunk : count;
                      int64_t left = stop - begin * per_chunk;
                      RowAt row(args.positions, begin * per_chunk);
                      if constexpr (kBackward) {
                        for (; left > 0; --left, row.advance())
                          rows.gradient(args.logarithm, at<T>(args.input, row.batch, row.position),
                                        at<T>(args.grad_output, row.batch, row.position),
                                        at_output<T>(args, row.batch, row.position));
                      } else {
                        forward_short_rows<T>(args, rows, row, left);
                      }
                    });
  });
}

template <class T, bool kBackward> void rows(SoftmaxArgs& args) {
  if (is_short_row<T>(args.classes))
    return short_rows<T, kBackward>(args);
  const int64_t count = args.batches * args.positions, per_chunk = row_chunk(args.classes);
  parallel_chunks(chunk_count(count, per_chunk), count * args.classes,
                  [&](int64_t begin, int64_t end, int thread) {
                    const RowScratch<Compute<T>> scratch(
                        args.scratch, args.scratch_bytes_per_thread, thread, args.classes);
                    const int64_t stop = end * per_chunk < count ? end * per_chunk : count;
                    RowAt row(args.positions, begin * per_chunk);
                    for (int64_t left = stop - begin * per_chunk; left > 0; --left, row.advance()) {
                      const T* x = at<T>(args.input, row.batch, row.position);
                      T* y = at_output<T>(args, row.batch, row.position);
                      if constexpr (kBackward)
                        backward_row(args, x, at<T>(args.grad_output, row.batch, row.position), y);
                      else
                        forward_row(args, x, y, scratch);
                    }
                  });
}

template <class T, bool kBackward> void planes(SoftmaxArgs& args) {
  using C = Compute<T>;
  const int64_t tile_size = kBackward ? kPlaneTile : plane_tile(args.classes, sizeof(C));
  const int64_t tiles_per_batch = chunk_count(args.positions, tile_size);
  parallel_chunks(args.batches * tiles_per_batch, args.batches * args.positions * args.classes,
                  [&](int64_t begin, int64_t end, int thread) {
                    PlaneExpSum<T> row(args.scratch, args.scratch_bytes_per_thread, thread,
                                       args.input, args.classes, 0);
                    TileSums<C> sums;
                    for (int64_t tile = begin; tile < end; ++tile) {
                      const int64_t batch = tile / tiles_per_batch,
                                    first = tile % tiles_per_batch * tile_size;
                      const int64_t left = args.positions - first;
                      const int64_t positions = left < tile_size ? left : tile_size;
                      const T* x = at<T>(args.input, batch, first);
                      T* y = at_output<T>(args, batch, first);
                      if constexpr (kBackward) {
                        const T* g = at<T>(args.grad_output, batch, first);
                        backward_tile(args, sums, x, g, y, positions);
                        continue;
                      }
                      row.set(x, positions);
                      args.logarithm ? log_softmax_tile(args, row, sums, y)
                                     : softmax_tile(args, row, sums, y);
                    }
                  });
}

} // namespace

void softmax(SoftmaxArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    args.rows ? rows<T, false>(args) : planes<T, false>(args);
  });
}

void softmax_backward(SoftmaxArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    args.rows ? rows<T, true>(args) : planes<T, true>(args);
  });
}

} // namespace dlk::DLK_ISA
