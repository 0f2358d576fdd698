// Batch normalization, backward, where the channels lie side by side (channels_last, (N, C)); the
// mathematics is batch_norm_backward_planes.cpp's, with a channel in each lane.
//
// Bytes per float32 element: 20 (24 with the residual's gradient), of which 8 from the cache where
// the arrays fit there.
// Error: as there. Reference: torch.nn.functional.batch_norm.
#include "kernels/norm/batch_norm_backward.h"
#include "kernels/norm/batch_norm_rows.h"

namespace dlk::DLK_ISA {
namespace {

// The sums of the block's columns, for as many vectors as stay in registers.
template <int kVecs, class T, class Activation, class Lanes>
DLK_INLINE void column_sums(const Activation& activation,
                            const RowCoefficients<Compute<T>>& channel, const Block<T>& block,
                            int64_t column, Lanes lanes, double* dy_sums, double* dy_xmu_sums) {
  using C = Compute<T>;
  constexpr int64_t step = Vec<C>::kLanes;
  LaneSums<C> dy_sum[kVecs], dy_xmu_sum[kVecs];
  for (int64_t r = 0; r < block.runs; ++r) {
    const GradientRun<T> run(block, r);
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const int64_t i = column + v * step;
      __builtin_prefetch(run.input + kRowsAhead * block.input.stride + i, 0, 2);
      __builtin_prefetch(run.grad_output + kRowsAhead * block.grad_output.stride + i, 0, 2);
      const Vec<C> centred = load_lanes(run.input + i, lanes) - channel.mean(i);
      const Wide<C> dy = widen(gradient_at(activation, channel, run, i, lanes, centred));
      dy_sum[v].add(dy);
      dy_xmu_sum[v].add_product(dy, widen(centred));
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const int64_t i = column + v * step;
    store(dy_sums + i, dy_sum[v].totals());
    store(dy_xmu_sums + i, dy_xmu_sum[v].totals());
  }
}

template <class T, class Activation>
DLK_BLOCK void sums_of_columns(const Activation& activation_of_all,
                               const RowCoefficients<Compute<T>>& channel, const Block<T>& block,
                               double* dy_sums, double* dy_xmu_sums) {
  const Activation activation = activation_of_all;
  for_each_column_group<T>(block.size, [&](auto vecs, int64_t column) DLK_BODY {
    column_sums<decltype(vecs)::value>(activation, channel, block, column, WholeVec{}, dy_sums,
                                       dy_xmu_sums);
  });
}

// The elements after the last row.
template <class T, class Activation>
DLK_BLOCK void sums_of_tail(const BatchNormArgs& args, const Activation& activation,
                            const RowCoefficients<Compute<T>>& channel, double* dy_sums,
                            double* dy_xmu_sums) {
  const Block<T> block(args, args.batches, 0, 0, 1, args.tail);
  for_each_vec<Compute<T>>(args.tail, [&](int64_t i, auto lanes) DLK_BODY {
    column_sums<1>(activation, channel, block, i, lanes, dy_sums, dy_xmu_sums);
  });
}

DLK_INLINE void clear(double* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    p[i] = 0;
}

// Groups of channels are shared out.
template <class T, class Activation>
void column_by_column(BatchNormArgs& args, const Activation& activation) {
  using C = Compute<T>;
  const int64_t chunk_rows = norm_chunk_rows(args.width);
  parallel_slabs(args, [&](int64_t column, int64_t columns) {
    SlabTable<C> table(args, column, columns, false);
    alignas(kVecBytes) double chunk[2 * kNormSlabColumns];
    LaneSums<double> sums[2 * kNormSlabColumns / Vec<double>::kLanes];
    for (int64_t row = 0; row < args.batches; row += chunk_rows) {
      const int64_t rows = args.batches - row < chunk_rows ? args.batches - row : chunk_rows;
      sums_of_columns<T>(activation, table.coefficients(),
                         Block<T>(args, row, 0, column, rows, columns), chunk, chunk + columns);
      for_each_vec<double>(2 * columns, [&](int64_t i, auto) DLK_BODY {
        sums[i / Vec<double>::kLanes].add({load(chunk + i)});
      });
    }
    const LaneSums<double>* const dy_xmu = sums + columns / Vec<double>::kLanes;
    for_each_vec<double>(columns, [&](int64_t i, auto lanes) DLK_BODY {
      const int64_t vec = i / Vec<double>::kLanes;
      finish_sums<C>(args, column + i, sums[vec].totals().low, dy_xmu[vec].totals().low, lanes);
    });
    if (args.elementwise) {
      SlabTable<C> full(args, column, columns, args.training);
      write_gradients<T>(args.training, activation, full.coefficients(),
                         Block<T>(args, args.batches - 1, 0, column, args.batches, columns, -1));
    }
  });
}

template <class T, class Activation> void sums(BatchNormArgs& args, const Activation& activation) {
  const RowCoefficients<Compute<T>> table = row_table<Compute<T>>(args, args.width, false);
  const int64_t width = args.width, chunks = norm_chunks(args);
  const int64_t chunk_rows = norm_chunk_rows(width);
  double* partials = args.scratch;
  parallel_chunk_columns(args, [&](int64_t chunk, int64_t column, int64_t columns) {
    const int64_t row = chunk * chunk_rows, left = args.batches - row;
    double* dy = partials + 2 * chunk * width + column;
    sums_of_columns<T>(
        activation, table.from(column),
        Block<T>(args, row, 0, column, left < chunk_rows ? left : chunk_rows, columns), dy,
        dy + width);
  });
  double* tail = partials + 2 * chunks * width; // one chunk more, often empty
  clear(tail, 2 * width);
  sums_of_tail<T>(args, activation, table, tail, tail + width);
  parallel_columns(args.channels, kNormSlabColumns, chunks * width,
                   [&](int64_t first, int64_t channels) {
                     for (int64_t channel = first; channel < first + channels; ++channel) {
                       CompensatedSum dy, dy_xmu;
                       for (int64_t chunk = 0; chunk <= chunks; ++chunk)
                         for (int64_t i = channel; i < width; i += args.channels) {
                           dy.add(partials[2 * chunk * width + i]);
                           dy_xmu.add(partials[(2 * chunk + 1) * width + i]);
                         }
                       finish_sums<Compute<T>>(args, channel, dy, dy_xmu);
                     }
                   });
}

} // namespace

void batch_norm_backward_rows(BatchNormArgs& args) noexcept {
  with_norm_types(args, [&](auto type, auto activation) {
    using T = decltype(type);
    if (!args.split)
      return column_by_column<T>(args, activation);
    if (args.reduce)
      sums<T>(args, activation);
    if (!args.elementwise)
      return;
    const BatchNormArgs wide = with_wide_rows(args);
    const auto table = row_table<Compute<T>>(args, wide.width, args.training);
    parallel_rows(wide, [&](int64_t row, int64_t rows, int64_t size) {
      write_gradients<T>(args.training, activation, table, Block<T>(wide, row, 0, 0, rows, size));
    });
  });
}

} // namespace dlk::DLK_ISA
