// What the kernels of batch normalization share: which elements a loop covers, and the loop that
// writes.
#pragma once

#include "kernels/common/bit_mask.h"
#include "kernels/norm/batch_norm_channel.h"
#include "kernels/norm/batch_norm_sums.h"

namespace dlk::DLK_ISA {

// --- blocks: `runs` runs of `size` elements that lie side by side

template <class T> struct Runs {
  T* data;
  int64_t stride; // from one run to the next
  DLK_INLINE T* at(int64_t run) const { return data ? data + run * stride : nullptr; }
};

struct MaskRuns {
  uint8_t* data;
  int64_t bit, stride;
  DLK_INLINE int64_t at(int64_t run) const { return bit + run * stride; }
};

// Integer<n>() is n as a type.
template <int kValue> struct Integer {
  static constexpr int value = kValue;
};

// body(index, lanes, Integer<0 or 1>) over [0, size), in turn, so that two sets of sums let no
// addition wait for the one before it; fetch(index) comes first.
template <class C, class Fetch, class Body>
DLK_INLINE void for_each_two_vecs(int64_t size, Fetch fetch, Body body) {
  constexpr int64_t step = Vec<C>::kLanes;
  int64_t index = 0;
  for (; index + 2 * step <= size; index += 2 * step) {
    fetch(index);
    fetch(index + step);
    body(index, WholeVec{}, Integer<0>());
    body(index + step, WholeVec{}, Integer<1>());
  }
  for_each_vec<C>(size - index,
                  [&](int64_t i, auto lanes) DLK_BODY { body(index + i, lanes, Integer<0>()); });
}

// What a loop over runs reads kElems later: the processor's own prefetchers stop at the end of a
// page, and a plane or a row is few pages long, or less than one.
template <class T> struct RunAhead {
  static constexpr int64_t kElems = 2048;
  const T *here, *next;
  int64_t size; // of what lies at `here`

  RunAhead(const Runs<const T>& array, int64_t run, int64_t runs, int64_t n_size)
      : here(array.at(run)), next(here), size(n_size) {
    int64_t distance = 1;
    if (size < kElems) { // whole runs ahead
      const int64_t wanted = kElems / size;
      distance = wanted < runs / 4 ? wanted : runs / 4 + 1;
      size = kElems;
    }
    if (run + distance < runs)
      next = array.at(run + distance);
  }
  DLK_INLINE void fetch(int64_t i) const {
    const int64_t ahead = i + kElems;
    __builtin_prefetch(ahead < size ? here + ahead : next + (ahead - size), 0, 2);
  }
};

// A block's arrays, from one element on.
template <class T> struct Block {
  Runs<const T> input, residual, grad_output;
  Runs<T> output, grad_residual;
  MaskRuns mask;
  int64_t runs, size;
  // Elements to the next channel of the input and of the gradient, where it is to be fetched.
  int64_t channel_ahead = 0, grad_channel_ahead = 0;
  bool nontemporal;

  // Element (batch, channel, position) on; runs follow each other along the batches, `step` = 1 or
  // -1. (Rows: the position is the column.)
  Block(const BatchNormArgs& args, int64_t batch, int64_t channel, int64_t position, int64_t n_runs,
        int64_t n_size, int64_t step = 1)
      : runs(n_runs), size(n_size), nontemporal(args.nontemporal && n_size >= kShortestStream) {
    const auto runs_of = [=](const ClassArray& a, auto& out) {
      using Pointer = decltype(out.data);
      out.data = a.data ? static_cast<Pointer>(a.data) + batch * a.batch_stride +
                              channel * a.class_stride + position
                        : nullptr;
      out.stride = step * a.batch_stride;
    };
    runs_of(args.input, input);
    runs_of(args.residual, residual);
    runs_of(args.grad_output, grad_output);
    runs_of(args.output, output);
    runs_of(args.grad_residual, grad_residual);
    mask.data = args.mask;
    mask.bit = batch * args.mask_batch_stride + channel * args.mask_class_stride + position;
    mask.stride = step * args.mask_batch_stride;
  }
  static constexpr int64_t kShortestStream = 64;

  // Has the next channel fetched while this one is written, where it is short enough: then reading
  // and writing overlap.
  void fetch_next_channel(const BatchNormArgs& args, int64_t channel) {
    if (channel + 1 == args.channels ||
        args.batches * args.positions * int64_t(sizeof(T)) > kFetchedChannelBytes)
      return;
    channel_ahead = args.input.class_stride;
    grad_channel_ahead = args.grad_output.class_stride;
  }
  static constexpr int64_t kFetchedChannelBytes = 4 << 20; // two for each thread stay in L3
};

// function(batch, position, runs, size) for the blocks that elements [begin, end) of a channel's
// planes make up: the rest of a plane, whole planes, the start of a plane.
template <class F>
DLK_INLINE void for_each_plane_block(int64_t positions, int64_t begin, int64_t end, F function) {
  int64_t batch = begin / positions;
  const int64_t position = begin % positions;
  if (position || end - begin < positions) {
    const int64_t rest = positions - position, size = end - begin < rest ? end - begin : rest;
    function(batch, position, 1, size);
    begin += size;
    ++batch;
  }
  const int64_t whole = (end - begin) / positions;
  if (whole > 0)
    function(batch, 0, whole, positions);
  begin += whole * positions;
  if (begin < end)
    function(batch + whole, 0, 1, end - begin);
}

// function(item, channel, begin, end) over the chunks of all channels' planes
template <class F> DLK_INLINE void parallel_plane_chunks(const BatchNormArgs& args, F function) {
  const int64_t elems = args.batches * args.positions, chunks = norm_chunks(args);
  parallel_chunks(args.channels * chunks, args.channels * elems,
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t item = begin; item < end; ++item) {
                      const int64_t first = item % chunks * kNormChunkElems;
                      const int64_t stop = first + kNormChunkElems;
                      function(item, item / chunks, first, stop < elems ? stop : elems);
                    }
                  });
}

// y = activation(z) of a block; with a mask, where its gradient passes.
template <class T, class Activation, class Channel>
DLK_BLOCK void normalize(const Activation& activation_of_all, const Channel& channel_of_all,
                         const Block<T>& block) {
  using C = Compute<T>;
  const Activation activation = activation_of_all; // by value: stores cannot reach them
  const Channel channel = channel_of_all;
  for (int64_t run = 0; run < block.runs; ++run) {
    const T *x = block.input.at(run), *residual = block.residual.at(run);
    T* y = block.output.at(run);
    const int64_t ahead = block.channel_ahead;
    const auto before = [&](int64_t i, auto lanes) DLK_BODY {
      if (ahead)
        __builtin_prefetch(x + ahead + i, 0, 2);
      return fma(load_lanes(x + i, lanes) - channel.mean(i), channel.scale(i), channel.shift(i));
    };
    if constexpr (Activation::kMasks) {
      if (block.mask.data) {
        BitWriter mask(block.mask.data, block.mask.at(run));
        for_each_vec_to(y, block.size, block.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
          const Vec<C> z = before(i, lanes) + load_lanes(residual + i, lanes);
          const int64_t count = lanes_in<T>(lanes);
          mask.append(mask_bits(activation.passes(z)) & ((1u << count) - 1), count);
          store_lanes(y + i, activation.forward(z), lanes);
        });
        mask.finish();
        continue;
      }
    }
    if (residual)
      for_each_vec_to(y, block.size, block.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        const Vec<C> z = before(i, lanes) + load_lanes(residual + i, lanes);
        store_lanes(y + i, activation.forward(z), lanes);
      });
    else
      for_each_vec_to(y, block.size, block.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        store_lanes(y + i, activation.forward(before(i, lanes)), lanes);
      });
  }
}

} // namespace dlk::DLK_ISA
