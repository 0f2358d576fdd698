// Batch normalization, forward, where the channels lie side by side (channels_last, (N, C)); the
// mathematics is batch_norm_planes.cpp's, with a channel in each lane.
//
// Bytes per float32 element: 12 (16 with a residual, + 1/8 where a mask is saved), of which 4 from
// the cache where the input fits there: one pass takes the statistics, one writes. Where channels
// are a few elements long, a group of them at a time.
// Statistics: as there, K a channel's first element of a chunk of rows; an array whose rows are
// short is taken as one with a multiple of its channels, and those merged.
//
// Tried: columns read downwards without fetching rows ahead took 1.2 times (256-byte rows) to 1.4
// times (1 KiB rows) as long. Writing from the end of the array towards its start, to read what the
// statistics left in the cache, took 1.3 times as long: it breaks what the prefetchers follow. In
// stretches of 4 MB from the last to the first it made no difference.
//
// Error: as there. Reference: torch.nn.functional.batch_norm.
#include "kernels/norm/batch_norm_rows.h"

namespace dlk::DLK_ISA {
namespace {

// The moments of columns side by side.
struct ColumnMoments {
  double *mean, *low, *m2;
  // In kNormSums * `stride` doubles.
  ColumnMoments(double* sums, int64_t stride)
      : mean(sums), low(sums + stride), m2(sums + 2 * stride) {}
  ColumnMoments from(int64_t column) const {
    ColumnMoments rest = *this;
    rest.mean += column;
    rest.low += column;
    rest.m2 += column;
    return rest;
  }
  Moments at(int64_t column, double count) const {
    return {count, mean[column], low[column], m2[column]};
  }
};

// mean += step, as itself and what it lacks.
DLK_INLINE void move_mean(Vec<double>& mean, Vec<double>& low, Vec<double> step) {
  low = low + two_sum(mean, step, mean);
  low = select(low == low, low, Vec<double>(0));
}

// Moments of the block's columns, from `x` on, by the sums of x - shift and of its square; for as
// many vectors as stay in registers.
template <int kVecs, class T>
DLK_INLINE void column_moments_about(const double* shifts, const Block<T>& block, const T* x,
                                     const ColumnMoments& moments) {
  using C = Compute<T>;
  constexpr int64_t lanes = Vec<C>::kLanes, half = Vec<double>::kLanes;
  LaneSums<C> sum[kVecs], squares[kVecs];
  for (int64_t run = 0; run < block.runs; ++run, x += block.input.stride) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      __builtin_prefetch(x + kRowsAhead * block.input.stride + v * lanes, 0, 2);
      const Wide<C> d =
          load_wide_lanes(x + v * lanes, WholeVec{}) - load_doubles<C>(shifts + v * lanes);
      sum[v].add(d);
      squares[v].add_product(d, d);
    }
  }
  const Wide<C> count = wide_of<C>(double(block.runs)), zero = wide_zero<C>();
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const Wide<C> total = sum[v].totals(), average = total / count;
    store(moments.low + v * lanes, average);
    store(moments.m2 + v * lanes, max(zero, squares[v].totals() - total * average));
  }
  for (int64_t i = 0; i < kVecs * lanes; i += half) {
    Vec<double> mean = load(shifts + i), low(0);
    move_mean(mean, low, load(moments.low + i));
    store(moments.mean + i, mean);
    store(moments.low + i, low);
  }
}

// As batch_norm_planes.cpp chooses its shifts.
template <int kVecs, class T>
DLK_INLINE void column_moments(const Block<T>& block, int64_t column,
                               const ColumnMoments& moments) {
  using C = Compute<T>;
  constexpr int64_t lanes = Vec<C>::kLanes;
  const T* x = block.input.at(0) + column;
  alignas(kVecBytes) double shifts[kVecs * lanes];
  const auto shift_by = [&](int v, Vec<C> value) DLK_BODY {
    const Vec<C> zero(C(0));
    store(shifts + v * lanes, widen(select(value - value == zero, value, zero)));
  };
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v)
    shift_by(v, load(x + v * lanes));
  column_moments_about<kVecs>(shifts, block, x, moments);
  if constexpr (sizeof(C) == sizeof(double)) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v)
      shift_by(v, load(moments.mean + v * lanes));
    column_moments_about<kVecs>(shifts, block, x, moments);
  }
}

template <class T>
DLK_BLOCK void moments_of_columns(const Block<T>& block, const ColumnMoments& moments) {
  for_each_column_group<T>(block.size, [&](auto vecs, int64_t column) DLK_BODY {
    column_moments<decltype(vecs)::value>(block, column, moments.from(column));
  });
}

// Merges a chunk of `other_count` rows into the moments of `count` rows; as Moments::merge.
DLK_BLOCK void merge_columns(int64_t columns, double count, const ColumnMoments& moments,
                             double other_count, const ColumnMoments& other) {
  const double share = other_count / (count + other_count);
  const Vec<double> mean_share(share), square_share(count * share);
  for_each_vec<double>(columns, [&](int64_t i, auto lanes) DLK_BODY {
    Vec<double> mean = load_lanes(moments.mean + i, lanes);
    Vec<double> low = load_lanes(moments.low + i, lanes);
    const Vec<double> gap =
        (load_lanes(other.mean + i, lanes) - mean) + (load_lanes(other.low + i, lanes) - low);
    move_mean(mean, low, gap * mean_share);
    store_lanes(moments.mean + i, mean, lanes);
    store_lanes(moments.low + i, low, lanes);
    const Vec<double> sum = load_lanes(moments.m2 + i, lanes) + load_lanes(other.m2 + i, lanes);
    store_lanes(moments.m2 + i, fma(gap * gap, square_share, sum), lanes);
  });
}

DLK_BLOCK void finish_channels(const BatchNormArgs& args, int64_t first, int64_t channels,
                               const ColumnMoments& moments) {
  const Vec<double> one(1), count(args.count), eps(args.eps);
  for_each_vec<double>(channels, [&](int64_t i, auto lanes) DLK_BODY {
    const Vec<double> mean = load_lanes(moments.mean + i, lanes);
    const Vec<double> squares = load_lanes(moments.m2 + i, lanes);
    store_lanes(args.mean + first + i, mean + load_lanes(moments.low + i, lanes), lanes);
    store_lanes(args.m2 + first + i, squares, lanes);
    store_lanes(args.invstd + first + i, one / sqrt(squares / count + eps), lanes);
  });
}

// Groups of channels are shared out.
template <class T, class Activation>
void column_by_column(BatchNormArgs& args, const Activation& activation) {
  using C = Compute<T>;
  const int64_t chunk_rows = norm_chunk_rows(args.width);
  parallel_slabs(args, [&](int64_t column, int64_t columns) {
    alignas(kVecBytes) double sums[2 * kNormSums * kNormSlabColumns];
    const ColumnMoments moments(sums, columns), chunk(sums + kNormSums * columns, columns);
    for (int64_t row = 0; row < args.batches; row += chunk_rows) {
      const int64_t rows = args.batches - row < chunk_rows ? args.batches - row : chunk_rows;
      const Block<T> block(args, row, 0, column, rows, columns);
      if (row == 0) {
        moments_of_columns(block, moments);
        continue;
      }
      moments_of_columns(block, chunk);
      merge_columns(columns, double(row), moments, double(rows), chunk);
    }
    finish_channels(args, column, columns, moments);
    if (args.elementwise) {
      SlabTable<C> table(args, column, columns, false);
      normalize<T>(activation, table.coefficients(),
                   Block<T>(args, args.batches - 1, 0, column, args.batches, columns, -1));
    }
  });
}

// The moments of every channel, from those of the columns and of the elements after the last row.
template <class T> void merge_channels(const BatchNormArgs& args, const ColumnMoments& columns) {
  if (args.width == args.channels)
    return finish_channels(args, 0, args.channels, columns);
  const T* tail = static_cast<const T*>(args.input.data) + args.batches * args.input.batch_stride;
  for (int64_t channel = 0; channel < args.channels; ++channel) {
    Moments moments;
    for (int64_t column = channel; column < args.width; column += args.channels)
      moments.merge(columns.at(column, double(args.batches)));
    for (int64_t i = channel; i < args.tail; i += args.channels)
      moments.merge({1, double(load_scalar(tail + i)), 0, 0});
    double sums[kNormSums] = {moments.mean, moments.low, moments.m2};
    finish_channels(args, channel, 1, ColumnMoments(sums, 1));
  }
}

template <class T> void statistics(BatchNormArgs& args) {
  const int64_t chunk_rows = norm_chunk_rows(args.width), chunks = norm_chunks(args);
  const auto of_chunk = [&](int64_t chunk) {
    return ColumnMoments(args.scratch + kNormSums * chunk * args.width, args.width);
  };
  parallel_chunk_columns(args, [&](int64_t chunk, int64_t column, int64_t columns) {
    const int64_t row = chunk * chunk_rows, left = args.batches - row;
    const int64_t rows = left < chunk_rows ? left : chunk_rows;
    moments_of_columns(Block<T>(args, row, 0, column, rows, columns), of_chunk(chunk).from(column));
  });
  parallel_columns(args.width, kNormSlabColumns, chunks * args.width,
                   [&](int64_t column, int64_t columns) {
                     for (int64_t chunk = 1; chunk < chunks; ++chunk) {
                       const int64_t row = chunk * chunk_rows, left = args.batches - row;
                       merge_columns(columns, double(row), of_chunk(0).from(column),
                                     double(left < chunk_rows ? left : chunk_rows),
                                     of_chunk(chunk).from(column));
                     }
                   });
  merge_channels<T>(args, of_chunk(0));
}

} // namespace

void batch_norm_rows(BatchNormArgs& args) noexcept {
  with_norm_types(args, [&](auto type, auto activation) {
    using T = decltype(type);
    using C = Compute<T>;
    if (!args.split)
      return column_by_column<T>(args, activation);
    if (args.reduce)
      statistics<T>(args);
    if (!args.elementwise)
      return;
    const BatchNormArgs wide = with_wide_rows(args);
    const RowCoefficients<C> table = row_table<C>(args, wide.width, false);
    parallel_rows(wide, [&](int64_t row, int64_t rows, int64_t size) {
      normalize<T>(activation, table, Block<T>(wide, row, 0, 0, rows, size));
    });
  });
}

} // namespace dlk::DLK_ISA
