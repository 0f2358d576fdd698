// Tiles of neighbouring positions whose classes are strided: a vector holds one class of 16 (8)
// positions. What log_sum_exp_rows.h does with the vectors of a row is done here with each position
// by itself, addend for addend: class c of a block is added to sum number c % kLanes, as lane c %
// kLanes of a row's vector is, and the sums are added as sum_lanes adds lanes; a block has the same
// bounds and the same anchor. So the bits of a row depend on its values alone, not on its strides.
#pragma once

#include "kernels/class_losses/log_sum_exp_rows.h"

namespace dlk::DLK_ISA {

// The sums of a block by lanes, for every position of a tile.
template <class C> struct TileSums {
  static constexpr int64_t kLanes = Vec<C>::kLanes;
  alignas(kVecBytes) C lanes[kLanes][kPlaneTile];

  DLK_INLINE void clear(int64_t size) {
    for (int64_t lane = 0; lane < kLanes && lane < size; ++lane)
      for (int64_t s = 0; s < kPlaneTile; s += kLanes)
        store(lanes[lane] + s, Vec<C>(C(0)));
  }
  // Where class `c` of the block is added, for the positions from `s` on.
  DLK_INLINE C* at(int64_t c, int64_t s) { return lanes[c % kLanes] + s; }
  // In lanes[0], as sum_lanes adds them. Those of classes beyond the block's `size` would be 0.
  DLK_INLINE const C* total(int64_t size, int64_t positions) {
    for (int64_t half = kLanes / 2; half; half /= 2)
      for (int64_t lane = 0; lane < half && lane + half < size; ++lane)
        for (int64_t s = 0; s < positions; s += kLanes)
          store(lanes[lane] + s, load(lanes[lane] + s) + load(lanes[lane + half] + s));
    return lanes[0];
  }
};

// Log-sum-exp of every position of a tile, block after block, as RowExpSum's. `values` receives the
// tile without gaps, the whole of it if there is room (kept), else block by block: the values, or
// with `kExps` their exponentials relative to their block's anchor.
template <class T> struct PlaneExpSum {
  using C = Compute<T>;
  static constexpr int64_t kLanes = Vec<C>::kLanes, kBlock = row_block_elems(sizeof(C));
  static constexpr int64_t kFetchAhead = 8; // classes

  const T* x;
  int64_t class_stride, classes, positions, tile;
  double softcap;
  bool kept;
  C *values, *block_anchors;               // [classes or kBlock][tile], [blocks][tile]
  alignas(kVecBytes) C anchor[kPlaneTile]; // -inf while there are only -inf
  double sum[kPlaneTile], lost[kPlaneTile];

  PlaneExpSum(void* scratch, int64_t bytes_per_thread, int thread, const ClassArray& input,
              int64_t classes, double softcap)
      : class_stride(input.class_stride), classes(classes), tile(plane_tile(classes, sizeof(C))),
        softcap(softcap), kept(plane_keeps(classes, sizeof(C))),
        values(reinterpret_cast<C*>(static_cast<char*>(scratch) + thread * bytes_per_thread)),
        block_anchors(values + plane_scratch_classes(classes, sizeof(C)) * tile) {}

  void set(const T* at, int64_t count) {
    x = at;
    positions = count;
    for (int64_t s = 0; s < kPlaneTile; ++s) {
      anchor[s] = C(-__builtin_inf());
      sum[s] = lost[s] = 0;
    }
  }

  template <class Lanes> DLK_INLINE Vec<C> value_at(int64_t c, int64_t s, Lanes lanes) const {
    const Vec<C> value = load_lanes(x + c * class_stride + s, lanes);
    return softcap == 0 ? value : capped(value, softcap);
  }
  C* block_values(int64_t first) const { return values + (kept ? first * tile : 0); }
  const C* anchors_of(int64_t first) const { return block_anchors + first / kBlock * tile; }
  double total(int64_t s) const { return sum[s] + lost[s]; }
  double final_anchor(int64_t s) const {
    return anchor[s] > C(-__builtin_inf()) ? double(anchor[s]) : 0;
  }

  // Adds the block of `size` classes from `first` on. each(c, s, value, shift, lanes) is called for
  // every vector of it, shift being the block's anchor.
  template <bool kExps, class Each>
  DLK_INLINE void add(int64_t first, int64_t size, TileSums<C>& sums, Each each) {
    move_anchors(first, read(first, size));
    C* block = block_values(first);
    const C* shifts = anchors_of(first);
    sums.clear(size);
    for (int64_t c = 0; c < size; ++c)
      for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
        const Vec<C> value = load(block + c * tile + s), shift = load(shifts + s);
        Vec<C> rounded;
        const Vec<C> e = exp_bounded(value - shift, rounded);
        if constexpr (kExps)
          store(block + c * tile + s, e);
        store(sums.at(c, s), load(sums.at(c, s)) + e);
        each(first + c, s, value, shift, lanes);
      });
    const C* parts = sums.total(size, positions);
    if (first == 0) {
      for (int64_t s = 0; s < kPlaneTile; ++s)
        sum[s] = double(parts[s]);
      return;
    }
    for (int64_t s = 0; s < positions; ++s)
      change_sum(s, [&](CompensatedSum& total) { total.add(double(parts[s])); });
  }

  // What multiplies the exponentials of the block at `first`: base[s] for those relative to the
  // last anchor.
  DLK_INLINE void block_factors(int64_t first, const double* base, C* factors) const {
    const C* shifts = anchors_of(first);
    for (int64_t s = 0; s < kPlaneTile; ++s)
      factors[s] = C(base[s]);
    for (int64_t s = 0; s < positions && first + kBlock < classes; ++s)
      if (double(shifts[s]) != final_anchor(s))
        factors[s] = C(base[s] * exp_scalar(double(shifts[s]) - final_anchor(s)));
  }

  // The exponential of class `c`, after all blocks were added with kExps.
  template <class Lanes>
  DLK_INLINE Vec<C> exp_at(int64_t c, int64_t s, const C* shifts, Lanes lanes) const {
    if (kept)
      return load(values + c * tile + s);
    Vec<C> rounded;
    return exp_bounded(value_at(c, s, lanes) - load(shifts + s), rounded);
  }

private:
  alignas(kVecBytes) C top_[kPlaneTile];

  // Reads a block and returns its largest values.
  DLK_BLOCK const C* read(int64_t first, int64_t size) {
    C* block = block_values(first);
    const Vec<C> lowest(C(-__builtin_inf()));
    for (int64_t s = 0; s < kPlaneTile; s += kLanes)
      store(top_ + s, lowest);
    for (int64_t c = 0; c < size; ++c)
      for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
        __builtin_prefetch(x + (first + c + kFetchAhead) * class_stride + s);
        const Vec<C> value = value_at(first + c, s, lanes);
        store(block + c * tile + s, value);
        store(top_ + s, max(load(top_ + s), value));
      });
    return top_;
  }

  template <class Change> DLK_INLINE void change_sum(int64_t s, Change change) {
    CompensatedSum total;
    total.sum = sum[s];
    total.lost = lost[s];
    change(total);
    sum[s] = total.sum;
    lost[s] = total.lost;
  }

  // New anchors where RowExpSum would set one.
  DLK_INLINE void move_anchors(int64_t first, const C* top) {
    const C lowest = C(-__builtin_inf());
    C* shifts = block_anchors + first / kBlock * tile;
    for (int64_t s = 0; s < tile; s += kLanes) {
      const Vec<C> high = load(top + s), old = load(anchor + s);
      Vec<C> rounded;
      exp_bounded(high - old, rounded);
      const IntVec<C> moves = (rounded > Vec<C>(kAnchorMoves<C>)) & (high > Vec<C>(lowest));
      const uint32_t lanes = mask_bits(moves);
      for (int64_t lane = s; first && lane < s + kLanes; ++lane)
        if (lanes >> (lane - s) & 1)
          change_sum(lane, [&](CompensatedSum& total) {
            scale_sum(total, double(anchor[lane]), double(top[lane]));
          });
      const Vec<C> now = select(moves, high, old);
      store(anchor + s, now);
      store(shifts + s, select(now > Vec<C>(lowest), now, Vec<C>(C(0))));
    }
  }
};

} // namespace dlk::DLK_ISA
