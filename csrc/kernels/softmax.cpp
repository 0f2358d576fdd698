// softmax and log_softmax over classes that lie side by side, forward and backward (over strided
// ones: softmax_planes.cpp).
//
//   y_c = e^(x_c - lse)    or    y_c = x_c - lse
//   dx = y (g - sum g y)   or    dx = g - e^y sum g
//
// Bytes per float32 element: forward 8, backward 12; a row of up to four vectors stays in registers
// (short_rows.h); a longer one is read again from L2, its exponentials kept in a scratch row.
// Error: 4 ULP forward; backward 8 eps of the terms. Sums in chunks of 2048 combined in double.
// Reference: torch.softmax, torch.log_softmax.
#include "kernels/class_rows.h"
#include "kernels/short_rows.h"

namespace dlk::DLK_ISA {
namespace {

template <class T>
void forward_row(const SoftmaxArgs& args, const T* x, T* y, const RowScratch<Compute<T>>& scratch) {
  using C = Compute<T>;
  RowExpSum<C> row;
  for_each_block(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    const T* ahead = x + first + kRowBlockElems;
    scratch.anchors[first / kRowBlockElems] =
        args.logarithm ? row.template add<false>(x + first, size, scratch.exps, ahead)
                       : row.template add<true>(x + first, size, scratch.exps + first, ahead);
  });
  const double log_sum = args.logarithm ? log_scalar(row.sum) : 0;
  for_each_block(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    if (args.logarithm) {
      const Vec<C> shift(row.anchor), log_sum_vec{C(log_sum)}, zero(C(0));
      for_each_vec_to(y + first, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        const Vec<C> value = load_lanes(x + first + i, lanes);
        store_lanes(y + first + i, min(zero, (value - shift) - log_sum_vec), lanes);
      });
      return;
    }
    double scale = 1 / row.sum;
    const C block_anchor = scratch.anchors[first / kRowBlockElems];
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
  double sum = 0;
  for_each_block(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    Vec<C> part(C(0));
    for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> grad = load_lanes(g + first + i, lanes);
      part = args.logarithm ? part + grad : fma(grad, load_lanes(y + first + i, lanes), part);
    });
    sum += double(sum_lanes(part));
  });
  const Vec<C> total{C(sum)};
  for_each_vec_to(dx, args.classes, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
    const Vec<C> grad = load_lanes(g + i, lanes), out = load_lanes(y + i, lanes);
    store_lanes(dx + i, args.logarithm ? fma(-exp(out), total, grad) : out * (grad - total), lanes);
  });
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
  template <class T> DLK_INLINE T* at(const ClassArray& array) const {
    return classes_at<T>(array, batch, position);
  }
};

// function(first row, rows, thread) over chunks of rows
template <class F> DLK_INLINE void parallel_row_chunks(const SoftmaxArgs& args, F function) {
  const int64_t count = args.batches * args.positions, per_chunk = row_chunk(args.classes);
  parallel_chunks(chunk_count(count, per_chunk), count * args.classes,
                  [&](int64_t begin, int64_t end, int thread) {
                    const int64_t first = begin * per_chunk;
                    const int64_t stop = end * per_chunk < count ? end * per_chunk : count;
                    function(RowAt(args.positions, first), stop - first, thread);
                  });
}

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
      x[i] = row.at<const T>(args.input);
      y[i] = row.at<T>(args.output);
    }
  }
};

template <class T, class Rows>
DLK_INLINE void forward_short_rows(const SoftmaxArgs& args, const Rows& rows, RowAt row,
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

template <class T, bool kBackward> void short_rows(const SoftmaxArgs& args) {
  with_short_rows<T>(args.classes, streams_rows<T>(args), [&](const auto rows) {
    parallel_row_chunks(args, [&](RowAt row, int64_t left, int) {
      if constexpr (kBackward)
        for (; left > 0; --left, row.advance())
          rows.gradient(args.logarithm, row.at<const T>(args.input),
                        row.at<const T>(args.grad_output), row.at<T>(args.output));
      else
        forward_short_rows<T>(args, rows, row, left);
    });
  });
}

template <class T, bool kBackward> void rows(const SoftmaxArgs& args) {
  if (is_short_row<T>(args.classes))
    return short_rows<T, kBackward>(args);
  parallel_row_chunks(args, [&](RowAt row, int64_t left, int thread) {
    const RowScratch<Compute<T>> scratch(args.scratch, args.scratch_bytes_per_thread, thread,
                                         args.classes);
    for (; left > 0; --left, row.advance()) {
      const T* x = row.at<const T>(args.input);
      T* y = row.at<T>(args.output);
      if constexpr (kBackward)
        backward_row(args, x, row.at<const T>(args.grad_output), y);
      else
        forward_row(args, x, y, scratch);
    }
  });
}

} // namespace

void softmax(SoftmaxArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { rows<decltype(type), false>(args); });
}

void softmax_backward(SoftmaxArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { rows<decltype(type), true>(args); });
}

} // namespace dlk::DLK_ISA
