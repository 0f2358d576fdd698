// Maxout: y = the largest of k pieces; the gradient goes to the piece that won, the first of equal
// ones. A NaN wins, the first one.
//
// Bytes per float32 element of y, with b = ceil(log2(k)): forward 4 k + 4 + b / 8, backward
// 4 + b / 8 + 4 k (view, max and scatter in torch keep 8 bytes of index). Exact. A number in the
// index that no piece has is reported.
// Reference: Goodfellow et al., Maxout Networks, 2013.
#include "kernels/activations/args.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {
namespace {

// The winners' numbers of one vector, from and to one bit plane of 16 elements after another.
template <class C> DLK_INLINE void store_index(uint8_t* group, int64_t bits, IntVec<C> winner) {
  using Int = typename IntVec<C>::Int;
  for (int64_t bit = 0; bit < bits; ++bit) {
    const IntVec<C> one(Int(Int(1) << bit));
    const uint32_t plane = mask_bits(equal(winner & one, one));
    group[2 * bit] = uint8_t(plane);
    if constexpr (Vec<C>::kLanes == 16)
      group[2 * bit + 1] = uint8_t(plane >> 8);
  }
}
template <class C> DLK_INLINE IntVec<C> load_index(const uint8_t* group, int64_t bits) {
  using Int = typename IntVec<C>::Int;
  IntVec<C> winner(Int(0));
  for (int64_t bit = 0; bit < bits; ++bit) {
    uint32_t plane = group[2 * bit];
    if constexpr (Vec<C>::kLanes == 16)
      plane |= uint32_t(group[2 * bit + 1]) << 8;
    winner = winner | (mask_from_bits<C>(plane) & IntVec<C>(Int(Int(1) << bit)));
  }
  return winner;
}

// Where in a row's index the vector at `position` starts; a float64 vector is half a group.
DLK_INLINE int64_t group_offset(int64_t position, int64_t bits) {
  return position / 16 * 2 * bits + position % 16 / 8;
}

template <class L> DLK_INLINE int64_t lane_count(L lanes, int64_t all) {
  if constexpr (sizeof(L) == sizeof(PartialVec))
    return lanes.count;
  else
    return all;
}

// Elements `stride` apart, one a lane.
template <class T, class L> DLK_INLINE Vec<Compute<T>> gather(const T* x, int64_t stride, L lanes) {
  constexpr int64_t all = Vec<Compute<T>>::kLanes;
  alignas(kVecBytes) T values[all];
  const int64_t count = lane_count(lanes, all);
  for (int64_t lane = 0; lane < all; ++lane)
    values[lane] = x[(lane < count ? lane : 0) * stride];
  return load(values);
}
template <class T, class L>
DLK_INLINE void scatter(T* x, int64_t stride, Vec<Compute<T>> v, L lanes) {
  constexpr int64_t all = Vec<Compute<T>>::kLanes;
  alignas(kVecBytes) T values[all];
  store(values, v);
  const int64_t count = lane_count(lanes, all);
  for (int64_t lane = 0; lane < count; ++lane)
    x[lane * stride] = values[lane];
}

template <class T, bool kInterleaved> void forward(const MaxoutArgs& args) {
  using C = Compute<T>;
  using Int = typename IntVec<C>::Int;
  const int64_t pieces = args.pieces, bits = maxout_index_bits(pieces);
  const int64_t row_bytes = maxout_index_row_bytes(args.cols, pieces);
  const int64_t piece_stride = kInterleaved ? 1 : args.cols, stride = kInterleaved ? pieces : 1;
  parallel_rows(args.rows, args.cols, [&](int64_t row, int64_t begin, int64_t end) {
    const T* x = static_cast<const T*>(args.input) + row * pieces * args.cols + begin * stride;
    T* y = static_cast<T*>(args.output) + row * args.cols + begin;
    const auto piece = [=](int64_t number, int64_t i, auto lanes) DLK_BODY {
      const T* at = x + number * piece_stride + i * stride;
      if constexpr (kInterleaved)
        return gather(at, pieces, lanes);
      else
        return load_lanes(at, lanes);
    };
    for_each_vec_masked(y, end - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      Vec<C> best = piece(0, i, lanes);
      Vec<C> winner = from_bits<C>(IntVec<C>(Int(0)));
      for (int64_t number = 1; number < pieces; ++number) {
        const Vec<C> value = piece(number, i, lanes);
        const IntVec<C> wins = (value > best) | ((value != value) & (best == best));
        best = select(wins, value, best);
        winner = select(wins, from_bits<C>(IntVec<C>(Int(number))), winner);
      }
      store_lanes(y + i, best, lanes);
      if (args.index)
        store_index<C>(args.index + row * row_bytes + group_offset(begin + i, bits), bits,
                       bits_of(winner));
    });
  });
}

template <class T, bool kInterleaved> void backward(MaxoutArgs& args) {
  using C = Compute<T>;
  using Int = typename IntVec<C>::Int;
  const int64_t pieces = args.pieces, bits = maxout_index_bits(pieces);
  const int64_t row_bytes = maxout_index_row_bytes(args.cols, pieces);
  const bool alike = !kInterleaved && args.cols * int64_t(sizeof(T)) % kVecBytes == 0;
  parallel_rows(args.rows, args.cols, [&](int64_t row, int64_t begin, int64_t end) {
    const T* g = static_cast<const T*>(args.grad_output) + row * args.cols + begin;
    T* dx = static_cast<T*>(args.output) + row * pieces * args.cols +
            begin * (kInterleaved ? pieces : 1);
    const auto body = [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> grad = load_lanes(g + i, lanes);
      const IntVec<C> winner =
          load_index<C>(args.index + row * row_bytes + group_offset(begin + i, bits), bits);
      IntVec<C> known(Int(0));
      for (int64_t number = 0; number < pieces; ++number) {
        const IntVec<C> wins = equal(winner, IntVec<C>(Int(number)));
        known = known | wins;
        const Vec<C> part = select(wins, grad, Vec<C>(0));
        if constexpr (kInterleaved)
          scatter(dx + i * pieces + number, pieces, part, lanes);
        else
          store_lanes(dx + number * args.cols + i, part, lanes);
      }
      const uint32_t all = (1u << lane_count(lanes, Vec<C>::kLanes)) - 1;
      if ((mask_bits(known) & all) != all)
        __atomic_store_n(&args.bad_index, true, __ATOMIC_RELAXED);
    };
    if constexpr (kInterleaved)
      for_each_vec<C>(end - begin, body);
    else
      for_each_vec_masked(dx, end - begin, args.nontemporal && alike, body);
  });
}

} // namespace

void maxout(MaxoutArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    args.interleaved ? forward<T, true>(args) : forward<T, false>(args);
  });
}

void maxout_backward(MaxoutArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    args.interleaved ? backward<T, true>(args) : backward<T, false>(args);
  });
}

} // namespace dlk::DLK_ISA
