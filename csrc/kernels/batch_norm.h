// What the kernels of batch normalization share: what is applied after the normalization, where a
// channel's numbers come from, which elements a loop covers, and the loop that writes.
//
// Every function that needs the value before the activation computes it as
//   z = fma(x - mean, scale, shift) [+ residual], scale = invstd * weight, shift = bias,
// from the statistics rounded to the computing type, so that backward sees forward's to the bit.
#pragma once

#include "kernels/bit_mask.h"
#include "kernels/wide_sums.h"
#include "simd/math.h"

namespace dlk::DLK_ISA {

// --- what follows the normalization

template <class C> struct NoActivation {
  static constexpr bool kIdentity = true, kMasks = false;
  explicit NoActivation(const BatchNormArgs&) {}
  DLK_INLINE Vec<C> forward(Vec<C> z) const { return z; }
  DLK_INLINE Vec<C> backward(Vec<C> g, Vec<C>) const { return g; }
};

// relu and leaky_relu. NaN stays NaN, and lets the gradient pass.
template <class C> struct Rectifier {
  static constexpr bool kIdentity = false, kMasks = true;
  Vec<C> slope;
  IntVec<C> keep; // zeros drop what is negative
  explicit Rectifier(const BatchNormArgs& args)
      : slope(C(args.negative_slope)), keep(args.leaky ? -1 : 0) {}
  DLK_INLINE Vec<C> negative(Vec<C> v) const { return from_bits<C>(bits_of(v * slope) & keep); }
  DLK_INLINE Vec<C> forward(Vec<C> z) const { return select(z < Vec<C>(C(0)), negative(z), z); }
  DLK_INLINE IntVec<C> passes(Vec<C> z) const { return (z <= Vec<C>(C(0))) ^ IntVec<C>(-1); }
  DLK_INLINE Vec<C> masked(Vec<C> g, IntVec<C> mask) const { return select(mask, g, negative(g)); }
  DLK_INLINE Vec<C> backward(Vec<C> g, Vec<C> z) const { return masked(g, passes(z)); }
};

// z / (1 + e^-z), with the derivative s (1 + z (1 - s)), s = 1 / (1 + e^-z).
template <class C> struct Silu {
  static constexpr bool kIdentity = false, kMasks = false;
  explicit Silu(const BatchNormArgs&) {}
  DLK_INLINE Vec<C> forward(Vec<C> z) const { return z / (Vec<C>(C(1)) + exp(-z)); }
  DLK_INLINE Vec<C> backward(Vec<C> g, Vec<C> z) const {
    const Vec<C> one(C(1)), s = one / (one + exp(-z));
    return g * (s * fma(z, one - s, one));
  }
};

// Calls f with a value of the storage type, and with the functor for what follows.
template <class F> DLK_INLINE void with_norm_types(const BatchNormArgs& args, F f) {
  with_storage_type(args.dtype, [&](auto type) {
    using C = Compute<decltype(type)>;
    switch (args.activation) {
    case NormActivation::none:
      return f(type, NoActivation<C>(args));
    case NormActivation::rectify:
      return f(type, Rectifier<C>(args));
    default:
      return f(type, Silu<C>(args));
    }
  });
}

// --- a channel's numbers, rounded to the computing type

template <class C> struct Coefficients {
  C mean, scale, shift;
  C slope = 0, offset = 0; // backward: dx = dy * scale + (x - mean) * slope + offset

  Coefficients(const BatchNormArgs& args, int64_t channel)
      : mean(C(args.mean[channel])),
        scale(C(double(C(args.invstd[channel])) * (args.weight ? args.weight[channel] : 1))),
        shift(C(args.bias ? args.bias[channel] : 0)) {}

  // dx = scale (dy - mean(dy) - (x - mean) invstd^2 mean(dy (x - mean)))
  void differentiate_statistics(const BatchNormArgs& args, int64_t channel) {
    const double invstd = double(C(args.invstd[channel]));
    const double factor = -invstd * (args.weight ? args.weight[channel] : 1) / args.count;
    offset = C(factor * args.sum_dy[channel]);
    slope = C(factor * invstd * invstd * args.sum_dy_xmu[channel]);
  }
};

DLK_INLINE double inverse_std(double m2, double count, double eps) {
  return (Vec<double>(1) / sqrt(Vec<double>(m2 / count + eps))).part[0][0];
}

// Planes: one channel in every lane.
template <class C> struct PlaneCoefficients {
  Vec<C> mean_, scale_, shift_, slope_, offset_;
  explicit PlaneCoefficients(const Coefficients<C>& c)
      : mean_(c.mean), scale_(c.scale), shift_(c.shift), slope_(c.slope), offset_(c.offset) {}
  DLK_INLINE Vec<C> mean(int64_t) const { return mean_; }
  DLK_INLINE Vec<C> scale(int64_t) const { return scale_; }
  DLK_INLINE Vec<C> shift(int64_t) const { return shift_; }
  DLK_INLINE Vec<C> slope(int64_t) const { return slope_; }
  DLK_INLINE Vec<C> offset(int64_t) const { return offset_; }
};

// Rows: kNormCoefficients arrays, `stride` apart.
template <class C> struct RowCoefficients {
  C* table;
  int64_t stride;
  void set(int64_t column, const Coefficients<C>& c) const {
    C* p = table + column;
    p[0] = c.mean;
    p[stride] = c.scale;
    p[2 * stride] = c.shift;
    p[3 * stride] = c.slope;
    p[4 * stride] = c.offset;
  }
  RowCoefficients from(int64_t column) const { return {table + column, stride}; }
  DLK_INLINE Vec<C> mean(int64_t i) const { return load(table + i); }
  DLK_INLINE Vec<C> scale(int64_t i) const { return load(table + stride + i); }
  DLK_INLINE Vec<C> shift(int64_t i) const { return load(table + 2 * stride + i); }
  DLK_INLINE Vec<C> slope(int64_t i) const { return load(table + 3 * stride + i); }
  DLK_INLINE Vec<C> offset(int64_t i) const { return load(table + 4 * stride + i); }
};

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

// What a walk over runs will read next, kElems from where it is: the processor's own prefetchers
// stop at the end of a page, and a plane or a row is few pages long, or less than one.
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
