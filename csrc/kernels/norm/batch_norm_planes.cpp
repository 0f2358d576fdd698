// Batch normalization, forward, where the positions of a channel lie side by side (NCHW):
//   y = activation((x - mean) / sqrt(var + eps) * weight + bias [+ residual])
//
// Bytes per float32 element: 8 (12 with a residual, + 1/8 where a mask is saved) while one channel
// fits in L2: its statistics are taken, then it is written while it is there. Else 12.
//
// Statistics: sums in double of x - K and (x - K)^2, K the first element of a chunk of 8192. K is
// one of the elements, so (mean - K)^2 is at most m2 and the difference that gives m2 loses at most
// 13 of double's 53 bits. A float32 result does not need those; for a float64 one the sums are
// taken a second time, with the chunk's mean as K. Chunks are merged in order (Chan, Golub, LeVeque
// 1979).
//
// Error: the variance is rounded once, the mean not before x - mean is; y as the centred form in
// the computing type.
//
// Tried: sums without fetching 8 KiB ahead took 1.4 times as long (planes of 49 KiB), conversions
// to double from a register instead of from memory 1.05 times. Fetching the next channel while one
// is written gained a quarter where two fit in L2; where they do not, a sixth with 32 MB of L3 (and
// lost 5 % with a slow L3 behind 2 MB of L2); half of it during the statistics was no better.
// Adding through a fma with 1, to use other ports, made no difference.
// Reference: torch.nn.functional.batch_norm.
#include "kernels/norm/batch_norm.h"

namespace dlk::DLK_ISA {
namespace {

template <class C> struct MomentSums {
  LaneSums<C> sum, squares;
  DLK_INLINE void add(Wide<C> d) {
    sum.add(d);
    squares.add_product(d, d);
  }
};

// Elements [begin, end) of a channel, by the sums of x - shift and of its square.
template <class T>
DLK_INLINE Moments moments_about(const BatchNormArgs& args, int64_t channel, int64_t begin,
                                 int64_t end, Compute<T> shift) {
  using C = Compute<T>;
  const Wide<C> wide_shift = widen(Vec<C>(shift));
  MomentSums<C> sums[2]; // so that no addition waits for the one before
  for_each_plane_block(args.positions, begin, end,
                       [&](int64_t batch, int64_t position, int64_t runs, int64_t size) DLK_BODY {
                         const Block<T> block(args, batch, channel, position, runs, size);
                         for (int64_t run = 0; run < runs; ++run) {
                           const T* x = block.input.at(run);
                           const RunAhead<T> ahead(block.input, run, runs, size);
                           for_each_two_vecs<C>(
                               size, [&](int64_t i) DLK_BODY { ahead.fetch(i); },
                               [&](int64_t i, auto lanes, auto which) DLK_BODY {
                                 sums[which.value].add(load_wide_lanes(x + i, lanes, shift) -
                                                       wide_shift);
                               });
                         }
                       });
  const double count = double(end - begin), total = sums[0].sum.total(sums[1].sum);
  const double m2 = sums[0].squares.total(sums[1].squares) - total * (total / count);
  Moments moments{count, double(shift), 0, m2 < 0 ? 0 : m2};
  moments.move(total / count);
  return moments;
}

// What an infinite or NaN element does to the sums comes from its own addend.
template <class C> DLK_INLINE C finite_or_zero(C shift) {
  return shift - shift == 0 ? shift : C(0);
}

template <class T>
DLK_BLOCK Moments chunk_moments(const BatchNormArgs& args, int64_t channel, int64_t begin,
                                int64_t end) {
  const Block<T> first(args, begin / args.positions, channel, begin % args.positions, 1, 1);
  Moments moments =
      moments_about<T>(args, channel, begin, end, finite_or_zero(load_scalar(first.input.data)));
  if constexpr (sizeof(Compute<T>) == sizeof(double))
    moments = moments_about<T>(args, channel, begin, end, finite_or_zero(moments.mean));
  return moments;
}

void finish_channel(const BatchNormArgs& args, int64_t channel, const Moments& moments) {
  args.mean[channel] = moments.mean + moments.low;
  args.m2[channel] = moments.m2;
  args.invstd[channel] = inverse_std(moments.m2, moments.count, args.eps);
}

template <class T, class Activation>
void write_block(const BatchNormArgs& args, const Activation& activation, int64_t channel,
                 const Block<T>& block) {
  normalize<T>(activation,
               PlaneCoefficients(Coefficients<Compute<T>>(args, channel, PartialVec{1})), block);
}

// Channels are shared out; the second pass over a channel goes backwards, from what was read last.
template <class T, class Activation>
void channel_by_channel(BatchNormArgs& args, const Activation& activation) {
  const int64_t elems = args.batches * args.positions;
  parallel_chunks(args.channels, args.channels * elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t channel = begin; channel < end; ++channel) {
      Moments moments;
      for (int64_t first = 0; first < elems; first += kNormChunkElems) {
        const int64_t stop = first + kNormChunkElems < elems ? first + kNormChunkElems : elems;
        moments.merge(chunk_moments<T>(args, channel, first, stop));
      }
      finish_channel(args, channel, moments);
      if (!args.elementwise)
        continue;
      Block<T> block(args, args.batches - 1, channel, 0, args.batches, args.positions, -1);
      block.fetch_next_channel(args, channel);
      write_block(args, activation, channel, block);
    }
  });
}

// Chunks of channels are shared out, twice.
template <class T, class Activation>
void chunk_by_chunk(BatchNormArgs& args, const Activation& activation) {
  const int64_t elems = args.batches * args.positions, chunks = norm_chunks(args);
  if (args.reduce) {
    parallel_plane_chunks(args, [&](int64_t item, int64_t channel, int64_t begin, int64_t end) {
      const Moments moments = chunk_moments<T>(args, channel, begin, end);
      double* partial = args.scratch + kNormSums * item;
      partial[0] = moments.mean;
      partial[1] = moments.low;
      partial[2] = moments.m2;
    });
    for (int64_t channel = 0; channel < args.channels; ++channel) {
      Moments moments;
      const double* partial = args.scratch + kNormSums * channel * chunks;
      for (int64_t chunk = 0; chunk < chunks; ++chunk, partial += kNormSums) {
        const int64_t rest = elems - chunk * kNormChunkElems;
        const int64_t count = rest < kNormChunkElems ? rest : kNormChunkElems;
        moments.merge({double(count), partial[0], partial[1], partial[2]});
      }
      finish_channel(args, channel, moments);
    }
  }
  if (args.elementwise)
    parallel_plane_chunks(args, [&](int64_t, int64_t channel, int64_t begin, int64_t end) {
      for_each_plane_block(args.positions, begin, end,
                           [&](int64_t batch, int64_t position, int64_t runs, int64_t size) {
                             write_block(args, activation, channel,
                                         Block<T>(args, batch, channel, position, runs, size));
                           });
    });
}

// With given statistics there is one pass: plane after plane, as they lie.
template <class T, class Activation>
void plane_by_plane(BatchNormArgs& args, const Activation& activation) {
  const int64_t planes = args.batches * args.channels;
  parallel_chunks(planes, planes * args.positions, [&](int64_t begin, int64_t end, int) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t batch = plane / args.channels, channel = plane % args.channels;
      write_block(args, activation, channel, Block<T>(args, batch, channel, 0, 1, args.positions));
    }
  });
}

} // namespace

void batch_norm_planes(BatchNormArgs& args) noexcept {
  with_norm_types(args, [&](auto type, auto activation) {
    using T = decltype(type);
    if (args.split)
      chunk_by_chunk<T>(args, activation);
    else if (args.reduce)
      channel_by_channel<T>(args, activation);
    else
      plane_by_plane<T>(args, activation);
  });
}

} // namespace dlk::DLK_ISA
