// The loops of batch normalization over arrays whose channels lie side by side.
#pragma once

#include "kernels/norm/batch_norm.h"

namespace dlk::DLK_ISA {

// Columns are read downwards, with strides that the processor's own prefetchers do not follow:
// lines are fetched this many rows before they are read.
constexpr int64_t kRowsAhead = 16;

// function(Integer<vectors>, first column) for groups of columns whose sums stay in registers. How
// many that are changes no result: a lane's sums depend on its own column alone.
template <class T, class F> DLK_INLINE void for_each_column_group(int64_t columns, F function) {
  constexpr int kVecs = kParts == 1 ? 4 : 1; // of 32 registers, or of 16
  constexpr int64_t lanes = Vec<Compute<T>>::kLanes;
  int64_t column = 0;
  for (; column + kVecs * lanes <= columns; column += kVecs * lanes)
    function(Integer<kVecs>(), column);
  if constexpr (kVecs > 1)
    for (; column < columns; column += lanes)
      function(Integer<1>(), column);
}

// function(column, columns) over groups of `step` columns
template <class F>
DLK_INLINE void parallel_columns(int64_t width, int64_t step, int64_t work_elems, F function) {
  parallel_chunks(chunk_count(width, step), work_elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item)
      function(item * step, width - item * step < step ? width - item * step : step);
  });
}
template <class F> DLK_INLINE void parallel_slabs(const BatchNormArgs& args, F function) {
  parallel_columns(args.width, args.slab_columns, args.width * args.batches, function);
}

// function(chunk of rows, column, columns)
template <class F> DLK_INLINE void parallel_chunk_columns(const BatchNormArgs& args, F function) {
  constexpr int64_t step = kNormColumnsPerItem;
  const int64_t parts = chunk_count(args.width, step);
  parallel_chunks(norm_chunks(args) * parts, args.batches * args.width,
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t item = begin; item < end; ++item) {
                      const int64_t column = item % parts * step;
                      const int64_t left = args.width - column;
                      function(item / parts, column, left < step ? left : step);
                    }
                  });
}

// function(first row, rows, elements of a row) over blocks of rows; what comes after the last row
// is one of `tail` elements.
template <class F> DLK_INLINE void parallel_rows(const BatchNormArgs& args, F function) {
  constexpr int64_t kBlockElems = 32768;
  const int64_t step = args.width < kBlockElems ? kBlockElems / args.width : 1;
  const int64_t blocks = chunk_count(args.batches, step);
  parallel_chunks(blocks + (args.tail > 0), args.batches * args.width + args.tail,
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t item = begin; item < end; ++item) {
                      if (item == blocks) {
                        function(args.batches, int64_t{1}, args.tail);
                        continue;
                      }
                      const int64_t row = item * step, left = args.batches - row;
                      function(row, left < step ? left : step, args.width);
                    }
                  });
}

// function(first channel, coefficients, lanes) for `channels` channels from `first` on.
template <class C, class F>
DLK_INLINE void for_each_coefficients(const BatchNormArgs& args, int64_t first, int64_t channels,
                                      bool differentiate, F function) {
  for_each_vec<double>(channels, [&](int64_t i, auto lanes) DLK_BODY {
    Coefficients<C> c(args, first + i, lanes);
    if (differentiate)
      c.differentiate_statistics(args, first + i, lanes);
    function(i, c, lanes);
  });
}

// The coefficients of the columns of rows of `width` elements, at the end of the scratch.
template <class C>
RowCoefficients<C> row_table(const BatchNormArgs& args, int64_t width, bool differentiate) {
  const int64_t stride = width + kNormTablePadding;
  const int64_t sums = args.reduce ? kNormSums * args.width * (norm_chunks(args) + 1) : 0;
  const RowCoefficients<C> table{reinterpret_cast<C*>(args.scratch + sums), stride};
  for_each_coefficients<C>(args, 0, args.channels, differentiate,
                           [&](int64_t channel, const Coefficients<C>& c, auto lanes) DLK_BODY {
                             for (int64_t i = channel; i < width; i += args.channels)
                               table.set(i, c, lanes);
                           });
  for (int64_t i = 0; i < kNormCoefficients; ++i) // read, but not used
    for (int64_t pad = 0; pad < kNormTablePadding; ++pad)
      table.table[i * stride + width + pad] = 0;
  return table;
}

// The same arrays with several short rows as one, where nothing lies between them: a run of 256
// bytes costs a fifth more than a long one.
DLK_INLINE BatchNormArgs with_wide_rows(const BatchNormArgs& args) {
  BatchNormArgs wide = args;
  const int64_t fold = kNormWideColumns / args.width;
  bool side_by_side = !args.mask || args.mask_batch_stride == args.width;
  ClassArray* const arrays[] = {&wide.input, &wide.residual, &wide.output, &wide.grad_output,
                                &wide.grad_residual};
  for (ClassArray* array : arrays) {
    side_by_side = side_by_side && (!array->data || array->batch_stride == args.width);
    array->batch_stride *= fold;
  }
  if (fold < 2 || !side_by_side)
    return args;
  wide.width *= fold;
  wide.mask_batch_stride *= fold;
  wide.batches /= fold;
  wide.tail += args.batches % fold * args.width;
  return wide;
}

// The coefficients of up to kNormSlabColumns channels.
template <class C> struct SlabTable {
  static constexpr int64_t kStride = kNormSlabColumns + kNormTablePadding;
  alignas(kVecBytes) C values[kNormCoefficients * kStride] = {};
  SlabTable(const BatchNormArgs& args, int64_t channel, int64_t channels, bool differentiate) {
    for_each_coefficients<C>(args, channel, channels, differentiate,
                             [&](int64_t i, const Coefficients<C>& c, auto lanes)
                                 DLK_BODY { coefficients().set(i, c, lanes); });
  }
  RowCoefficients<C> coefficients() { return {values, kStride}; }
};

} // namespace dlk::DLK_ISA
