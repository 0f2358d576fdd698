// softmax and log_softmax of a tile of positions whose classes are strided, forward and backward:
// what softmax.cpp does with rows.
#pragma once

#include "kernels/class_losses/log_sum_exp_planes.h"
#include "kernels/class_losses/softmax_in_registers.h"

namespace dlk::DLK_ISA {

// The logarithms of a tile's sums, as rows of so many classes take theirs.
template <class T> void log_sums(const PlaneExpSum<T>& row, Compute<T>* logs) {
  using C = Compute<T>;
  alignas(kVecBytes) double sums[kPlaneTile];
  for (int64_t s = 0; s < kPlaneTile; ++s) {
    sums[s] = row.total(s);
    logs[s] = C(sums[s]);
  }
  if (is_short_row<T>(row.classes)) {
    for (int64_t s = 0; s < kPlaneTile; s += Vec<C>::kLanes)
      store(logs + s, log(load(logs + s)));
    return;
  }
  for (int64_t s = 0; s < kPlaneTile; s += Vec<double>::kLanes)
    store(sums + s, log(load(sums + s)));
  for (int64_t s = 0; s < kPlaneTile; ++s)
    logs[s] = C(sums[s]);
}

template <class T>
DLK_BLOCK void log_softmax_tile(const SoftmaxArgs& args, PlaneExpSum<T>& row,
                                TileSums<Compute<T>>& sums, T* y) {
  using C = Compute<T>;
  for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    row.template add<false>(first, size, sums, [](auto...) DLK_BODY {});
  });
  alignas(kVecBytes) C shift[kPlaneTile], log_sum[kPlaneTile];
  log_sums(row, log_sum);
  for (int64_t s = 0; s < kPlaneTile; ++s)
    shift[s] = C(row.final_anchor(s));
  for (int64_t c = 0; c < args.classes; ++c)
    for_each_vec<C>(row.positions, [&](int64_t s, auto lanes) DLK_BODY {
      const Vec<C> value =
          row.kept ? load(row.values + c * row.tile + s) : row.value_at(c, s, lanes);
      store_lanes(y + c * args.output.class_stride + s,
                  min(Vec<C>(C(0)), (value - load(shift + s)) - load(log_sum + s)), lanes);
    });
}

template <class T>
DLK_BLOCK void softmax_tile(const SoftmaxArgs& args, PlaneExpSum<T>& row,
                            TileSums<Compute<T>>& sums, T* y) {
  using C = Compute<T>;
  for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    row.template add<true>(first, size, sums, [](auto...) DLK_BODY {});
  });
  double base[kPlaneTile];
  alignas(kVecBytes) C factors[kPlaneTile];
  for (int64_t s = 0; s < kPlaneTile; ++s)
    base[s] = 1 / row.total(s);
  for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    row.block_factors(first, base, factors);
    const C* shifts = row.anchors_of(first);
    for (int64_t c = first; c < first + size; ++c)
      for_each_vec<C>(row.positions, [&](int64_t s, auto lanes) DLK_BODY {
        store_lanes(y + c * args.output.class_stride + s,
                    row.exp_at(c, s, shifts, lanes) * load(factors + s), lanes);
      });
  });
}

template <class T>
DLK_BLOCK void backward_tile(const SoftmaxArgs& args, TileSums<Compute<T>>& sums, const T* y,
                             const T* g, T* dx, int64_t positions) {
  using C = Compute<T>;
  alignas(kVecBytes) C total[kPlaneTile];
  CompensatedSum sum[kPlaneTile];
  const auto terms = [&](int64_t c, int64_t s, auto lanes, Vec<C>& grad, Vec<C>& out) DLK_BODY {
    grad = load_lanes(g + c * args.grad_output.class_stride + s, lanes);
    out = load_lanes(y + c * args.input.class_stride + s, lanes);
  };
  for_each_block<C>(args.classes, [&](int64_t first, int64_t size) DLK_BODY {
    sums.clear(size);
    for (int64_t c = 0; c < size; ++c)
      for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
        Vec<C> grad, out;
        terms(first + c, s, lanes, grad, out);
        C* part = sums.at(c, s);
        store(part, args.logarithm ? load(part) + grad : fma(grad, out, load(part)));
      });
    const C* parts = sums.total(size, positions);
    for (int64_t s = 0; s < positions; ++s)
      sum[s].add(double(parts[s]));
  });
  for (int64_t s = 0; s < kPlaneTile; ++s)
    total[s] = C(sum[s].total());
  for (int64_t c = 0; c < args.classes; ++c)
    for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
      Vec<C> grad, out;
      terms(c, s, lanes, grad, out);
      const Vec<C> all = load(total + s);
      store_lanes(dx + c * args.output.class_stride + s,
                  args.logarithm ? fma(-exp(out), all, grad) : out * (grad - all), lanes);
    });
}

} // namespace dlk::DLK_ISA
