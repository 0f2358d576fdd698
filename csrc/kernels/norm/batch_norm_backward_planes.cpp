// Batch normalization, backward, where the positions of a channel lie side by side (NCHW): with dy
// the gradient before the activation,
//   dbias = sum(dy), dweight = invstd sum(dy (x - mean)), dresidual = dy,
//   dx = weight invstd (dy - mean(dy) - (x - mean) invstd^2 mean(dy (x - mean))),
// or weight invstd dy where the statistics were given. What the activation passes is computed again
// from x as forward computed it, or read from its mask.
//
// Bytes per float32 element: 12 (16 with the residual's gradient) while one channel of x and of the
// gradient fits in the cache: both sums are taken, then it is read again, last part first. Else 20.
// Error: sums in double, of dy (x - C(mean)), from which what C(mean) lacks is taken; dx in the
// computing type, in proportion to its largest term, of which mean(dy) and the mean are none.
// Tried: fetching the next channel while one is written gained a tenth; fetching ahead in the pass
// that writes lost; converting dy and x - mean to double through memory made no difference.
// Reference: torch.nn.functional.batch_norm.
#include "kernels/norm/batch_norm_backward.h"

namespace dlk::DLK_ISA {
namespace {

struct Sums {
  double dy, dy_xmu;
};

// Over all chunks of a channel.
struct ChannelSums {
  CompensatedSum dy, dy_xmu;
  void add(const Sums& chunk) {
    dy.add(chunk.dy);
    dy_xmu.add(chunk.dy_xmu);
  }
  template <class C> void finish(const BatchNormArgs& args, int64_t channel) const {
    finish_sums<C>(args, channel, dy, dy_xmu);
  }
};

// Over elements [begin, end) of a channel.
template <class T, class Activation>
DLK_BLOCK Sums chunk_sums(const BatchNormArgs& args, const Activation& activation_of_all,
                          int64_t channel_index, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const Activation activation = activation_of_all;
  const PlaneCoefficients<C> channel(Coefficients<C>(args, channel_index, PartialVec{1}));
  LaneSums<C> dy_sum[2], dy_xmu_sum[2]; // two, so that no addition waits
  for_each_plane_block(
      args.positions, begin, end,
      [&](int64_t batch, int64_t position, int64_t runs, int64_t size) DLK_BODY {
        const Block<T> block(args, batch, channel_index, position, runs, size);
        for (int64_t r = 0; r < runs; ++r) {
          const GradientRun<T> run(block, r);
          const RunAhead<T> input_ahead(block.input, r, runs, size);
          const RunAhead<T> grad_ahead(block.grad_output, r, runs, size);
          for_each_two_vecs<C>(
              size,
              [&](int64_t i) DLK_BODY {
                input_ahead.fetch(i);
                grad_ahead.fetch(i);
              },
              [&](int64_t i, auto lanes, auto which) DLK_BODY {
                constexpr int w = decltype(which)::value;
                const Vec<C> centred = load_lanes(run.input + i, lanes) - channel.mean(i);
                const Wide<C> dy = widen(gradient_at(activation, channel, run, i, lanes, centred));
                dy_sum[w].add(dy);
                dy_xmu_sum[w].add_product(dy, widen(centred));
              });
        }
      });
  return {dy_sum[0].total(dy_sum[1]), dy_xmu_sum[0].total(dy_xmu_sum[1])};
}

template <class T, class Activation>
void write_block(const BatchNormArgs& args, const Activation& activation, int64_t channel,
                 const Block<T>& block) {
  using C = Compute<T>;
  Coefficients<C> coefficients(args, channel, PartialVec{1});
  if (args.training)
    coefficients.differentiate_statistics(args, channel, PartialVec{1});
  write_gradients<T>(args.training, activation, PlaneCoefficients<C>(coefficients), block);
}

// Channels are shared out.
template <class T, class Activation>
void channel_by_channel(BatchNormArgs& args, const Activation& activation) {
  const int64_t elems = args.batches * args.positions;
  parallel_chunks(args.channels, args.channels * elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t channel = begin; channel < end; ++channel) {
      ChannelSums total;
      for (int64_t first = 0; first < elems; first += kNormChunkElems) {
        const int64_t stop = first + kNormChunkElems < elems ? first + kNormChunkElems : elems;
        total.add(chunk_sums<T>(args, activation, channel, first, stop));
      }
      total.finish<Compute<T>>(args, channel);
      if (args.elementwise) {
        Block<T> block(args, args.batches - 1, channel, 0, args.batches, args.positions, -1);
        block.fetch_next_channel(args, channel);
        write_block(args, activation, channel, block);
      }
    }
  });
}

// Chunks of channels are shared out, twice.
template <class T, class Activation>
void chunk_by_chunk(BatchNormArgs& args, const Activation& activation) {
  if (args.reduce) {
    parallel_plane_chunks(args, [&](int64_t item, int64_t channel, int64_t begin, int64_t end) {
      const Sums sums = chunk_sums<T>(args, activation, channel, begin, end);
      args.scratch[2 * item] = sums.dy;
      args.scratch[2 * item + 1] = sums.dy_xmu;
    });
    const int64_t chunks = norm_chunks(args);
    for (int64_t channel = 0; channel < args.channels; ++channel) {
      ChannelSums total;
      const double* partial = args.scratch + 2 * channel * chunks;
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        total.add({partial[2 * chunk], partial[2 * chunk + 1]});
      total.finish<Compute<T>>(args, channel);
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

// With given sums there is one pass: plane after plane, as they lie.
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

void batch_norm_backward_planes(BatchNormArgs& args) noexcept {
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
