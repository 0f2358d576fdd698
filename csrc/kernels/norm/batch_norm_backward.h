// What the backward kernels of batch normalization share: the gradient before the activation, and
// the loop that writes gradients.
#pragma once

#include "kernels/norm/batch_norm.h"

namespace dlk::DLK_ISA {

// One run's arrays.
template <class T> struct GradientRun {
  const T *grad_output, *input, *residual;
  const uint8_t* mask;
  int64_t bit;

  DLK_INLINE GradientRun(const Block<T>& block, int64_t run)
      : grad_output(block.grad_output.at(run)), input(block.input.at(run)),
        residual(block.residual.at(run)), mask(block.mask.data), bit(block.mask.at(run)) {}
};

// The gradient of z at element i of a run: grad_output times the activation's derivative.
// `centred` is x - mean, zero where nothing needs it.
template <class T, class Activation, class Channel, class Lanes>
DLK_INLINE Vec<Compute<T>> gradient_at(const Activation& activation, const Channel& channel,
                                       const GradientRun<T>& run, int64_t i, Lanes lanes,
                                       Vec<Compute<T>> centred) {
  using C = Compute<T>;
  const Vec<C> g = load_lanes(run.grad_output + i, lanes);
  if constexpr (Activation::kMasks)
    if (run.mask)
      return activation.masked(
          g, mask_from_bits<C>(read_bits(run.mask, run.bit + i, lanes_in<T>(lanes))));
  if constexpr (!Activation::kIdentity) {
    Vec<C> z = fma(centred, channel.scale(i), channel.shift(i));
    if (run.residual)
      z = z + load_lanes(run.residual + i, lanes);
    return activation.backward(g, z);
  }
  return g;
}

// The sums of channels, of which dy_xmu are those of dy (x - C(mean)).
template <class C, class Lanes>
DLK_INLINE void finish_sums(const BatchNormArgs& args, int64_t channel, Vec<double> dy,
                            Vec<double> dy_xmu, Lanes lanes) {
  const Split<C> mean(load_lanes(args.mean + channel, lanes));
  store_lanes(args.sum_dy + channel, dy, lanes);
  store_lanes(args.sum_dy_xmu + channel, mean.off(dy_xmu, dy), lanes);
}
template <class C>
DLK_INLINE void finish_sums(const BatchNormArgs& args, int64_t channel, const CompensatedSum& dy,
                            const CompensatedSum& dy_xmu) {
  finish_sums<C>(args, channel, Vec<double>(dy.total()), Vec<double>(dy_xmu.total()),
                 PartialVec{1});
}

// dx = (dy - dy_mean) scale + (x - mean) slope + offset, or dy scale where the statistics were
// given; and the residual's gradient dy.
template <class T, class Activation, class Channel>
DLK_BLOCK void write_gradients(bool training, const Activation& activation_of_all,
                               const Channel& channel_of_all, const Block<T>& block) {
  using C = Compute<T>;
  const Activation activation = activation_of_all; // by value: stores cannot reach them
  const Channel channel = channel_of_all;
  const bool needs_input = training || (!Activation::kIdentity && !block.mask.data);
  const int64_t input_ahead = block.channel_ahead, grad_ahead = block.grad_channel_ahead;
  for (int64_t r = 0; r < block.runs; ++r) {
    const GradientRun<T> run(block, r);
    T *dx = block.output.at(r), *residual = block.grad_residual.at(r);
    for_each_vec_to(dx ? dx : residual, block.size, block.nontemporal,
                    [&](int64_t i, auto lanes) DLK_BODY {
                      Vec<C> centred(C(0));
                      if (input_ahead) {
                        __builtin_prefetch(run.input + input_ahead + i, 0, 2);
                        __builtin_prefetch(run.grad_output + grad_ahead + i, 0, 2);
                      }
                      if (needs_input)
                        centred = load_lanes(run.input + i, lanes) - channel.mean(i);
                      const Vec<C> dy = gradient_at(activation, channel, run, i, lanes, centred);
                      if (residual)
                        store_lanes(residual + i, dy, lanes);
                      if (!dx)
                        return;
                      if (training)
                        store_lanes(dx + i,
                                    fma(dy - channel.dy_mean(i), channel.scale(i),
                                        fma(centred, channel.slope(i), channel.offset(i))),
                                    lanes);
                      else
                        store_lanes(dx + i, dy * channel.scale(i), lanes);
                    });
  }
}

} // namespace dlk::DLK_ISA
