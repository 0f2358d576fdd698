// The loops of the elementwise losses over their operands: lines along the innermost dimension, in
// which an operand is contiguous or one value, in pieces of fixed bounds.
#pragma once

#include "kernels/elementwise_losses/args.h"
#include "kernels/elementwise_losses/functors.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {

// A whole step whose stores go past the cache or not, which is decided at run time: there are many
// losses, and a loop for each case would double their code.
struct EitherVec {
  bool streamed;
};
template <class T> DLK_INLINE Vec<Compute<T>> load_lanes(const T* p, EitherVec) {
  return load(p);
}
template <class T> DLK_INLINE void store_lanes(T* p, Vec<Compute<T>> v, EitherVec lanes) {
  lanes.streamed ? stream(p, v) : store(p, v);
}
template <class T> DLK_INLINE Vec<T> zero_beyond(Vec<T> v, EitherVec) {
  return v;
}

// An operand along one stretch of a line.
template <class T> struct LossStream {
  const T* data;
  int64_t step_mask; // -1: contiguous; 0: `data` is a vector of the same value
  template <class Lanes> DLK_INLINE Vec<Compute<T>> at(int64_t i, Lanes lanes) const {
    const T* here = data + (i & step_mask);
    fetch_ahead(here);
    return load_lanes(here, lanes);
  }
};

template <class T> struct LossLine {
  LossStream<T> operands[kLossOperands];
  T* results[kLossResults];
};

// body(index, lanes) over [0, size), past the cache if `nontemporal` and every result of the line
// is aligned. The steps start at 0 whatever the alignment: which lane an element is summed in
// depends on its index.
template <class T, class Body>
DLK_INLINE void for_each_step(const LossLine<T>& line, int64_t size, bool nontemporal,
                              Body&& body) {
  constexpr int64_t lanes = Vec<Compute<T>>::kLanes, step_bytes = lanes * sizeof(T);
  uintptr_t addresses = 0; // those that are not wanted are 0
  for (const T* result : line.results)
    addresses |= reinterpret_cast<uintptr_t>(result);
  const bool streamed = nontemporal && addresses % step_bytes == 0;
  int64_t index = 0;
  for (; index + lanes <= size; index += lanes)
    body(index, EitherVec{streamed});
  if (index < size)
    body(index, PartialVec{size - index});
}

// Stores a result that may be wide. Such a one is never streamed.
template <class T, class Lanes>
DLK_INLINE void store_result(T* p, int64_t i, bool wide, Vec<Compute<T>> v, Lanes lanes) {
  if constexpr (kIsHalf<T>) {
    if (wide)
      return store_lanes(reinterpret_cast<Compute<T>*>(p) + i, v, lanes);
  }
  store_lanes(p + i, v, lanes);
}

// The operands of a loss at index `i` of a line; those it does not read are left out.
template <class T, class Loss> struct LossReader {
  LossStream<T> x, t, w, p;
  DLK_INLINE explicit LossReader(const LossLine<T>& line)
      : x(line.operands[kLossInput]), t(line.operands[kLossTarget]), w(line.operands[kLossThird]),
        p(line.operands[kLossFourth]) {}
  template <class Lanes> DLK_INLINE LossOperands<Compute<T>> at(int64_t i, Lanes lanes) const {
    LossOperands<Compute<T>> operands;
    operands.x = x.at(i, lanes);
    operands.t = Loss::kOperands > 1 ? t.at(i, lanes) : operands.x;
    operands.w = Loss::kOperands > 2 ? w.at(i, lanes) : operands.x;
    operands.p = Loss::kOperands > 3 ? p.at(i, lanes) : operands.x;
    return operands;
  }
};

// A sum in double, lane by lane. Of doubles, which have no digits to spare, as a sum of sums.
struct WideSum {
  Vec<double> low{0}, high{0};
  int count = 0;
  DLK_INLINE void add(Vec<float> v) {
    low = low + widen_low(v);
    high = high + widen_high(v);
  }
  DLK_INLINE void add(Vec<double> v) {
    low = low + v;
    if (++count == 32) {
      high = high + low;
      low = Vec<double>(0);
      count = 0;
    }
  }
  DLK_INLINE double total() const { return sum_lanes(low + high); }
};

// Where operands that are one value are spread over a vector.
template <class T> struct SameValues {
  alignas(kVecBytes) T lanes[kLossOperands][16];
};

template <class T>
DLK_BLOCK void place_constants(const LossArgs& args, SameValues<T>& same, LossLine<T>& line) {
  using C = Compute<T>;
  for (int which = 0; which < kLossOperands; ++which) {
    line.operands[which] = {same.lanes[which], 0};
    if (!args.operands[which].data)
      store_lanes(same.lanes[which], Vec<C>(C(args.operands[which].value)), WholeVec{});
  }
}

// Points `line` at elements [index, end), as many as lie in one line, and returns how many.
template <class T>
DLK_BLOCK int64_t place_line(const LossArgs& args, int64_t index, int64_t end, SameValues<T>& same,
                             LossLine<T>& line) {
  using C = Compute<T>;
  const int last = args.ndim - 1;
  const int64_t length = args.shape[last], column = index % length;
  int64_t place[kLossDims];
  int64_t rest = index / length;
  for (int dim = last - 1; dim >= 0; --dim) {
    place[dim] = rest % args.shape[dim];
    rest /= args.shape[dim];
  }
  const auto at = [&](const LossArray& array) {
    int64_t offset = column * array.strides[last];
    for (int dim = 0; dim < last; ++dim)
      offset += place[dim] * array.strides[dim];
    return array.wide ? reinterpret_cast<T*>(static_cast<C*>(array.data) + offset)
                      : static_cast<T*>(array.data) + offset;
  };
  for (int which = 0; which < kLossOperands; ++which) {
    const LossArray& array = args.operands[which];
    if (!array.data)
      continue;
    if (array.strides[last] == 0)
      store_lanes(same.lanes[which], Vec<C>(load_scalar(at(array))), WholeVec{});
    else
      line.operands[which] = {at(array), -1};
  }
  for (int which = 0; which < kLossResults; ++which)
    line.results[which] = args.results[which].data ? at(args.results[which]) : nullptr;
  return length - column < end - index ? length - column : end - index;
}

// body(line, size) for every stretch of elements [begin, end) that lies in one line.
template <class T, class Body>
DLK_INLINE void for_each_line(const LossArgs& args, int64_t begin, int64_t end, Body&& body) {
  SameValues<T> same;
  LossLine<T> line;
  place_constants(args, same, line);
  for (int64_t index = begin; index < end;) {
    const int64_t size = place_line(args, index, end, same, line);
    body(line, size);
    index += size;
  }
}

// The sums of the pieces, together or line by line.
inline DLK_BLOCK void add_up(LossArgs& args, int64_t lines, int64_t per_line, int64_t pieces) {
  const int64_t sums = args.lines ? lines : 1;
  for (int64_t which = 0; which < sums; ++which) {
    CompensatedSum total;
    const int64_t stop = args.lines ? (which + 1) * per_line : pieces;
    for (int64_t piece = args.lines ? which * per_line : 0; piece < stop; ++piece)
      total.add(args.partials[piece]);
    args.loss_sum = total.total();
    if (args.lines)
      with_storage_type(args.sums_dtype, [&](auto type) {
        using T = decltype(type);
        store_scalar(static_cast<T*>(args.line_sums) + which, Compute<T>(args.loss_sum));
      });
  }
}

// sum(begin, end) -> double over all pieces, shared out among threads; then their sums, together or
// line by line.
template <class T, class Sum> DLK_INLINE void for_each_piece(LossArgs& args, Sum sum) {
  const int64_t length = args.shape[args.ndim - 1];
  const int64_t lines = length ? args.size / length : 0;
  const int64_t pieces = loss_pieces(lines, length, args.lines), per_line = pieces_of_line(length);
  // Short lines are taken several at a time.
  const int64_t group = args.lines && length < kLossPieceElems ? kLossPieceElems / length : 1;
  parallel_chunks(chunk_count(pieces, group), args.size, [&](int64_t begin, int64_t end, int) {
    const int64_t stop = end * group < pieces ? end * group : pieces;
    for (int64_t piece = begin * group; piece < stop; ++piece) {
      int64_t first = piece * kLossPieceElems, limit = args.size;
      if (args.lines) {
        first = piece / per_line * length + piece % per_line * kLossPieceElems;
        limit = (piece / per_line + 1) * length;
      }
      args.partials[piece] =
          sum(first, limit - first < kLossPieceElems ? limit : first + kLossPieceElems);
    }
  });
  add_up(args, lines, per_line, pieces);
}

// Notes which operands were outside of the loss's domain.
template <class C> DLK_INLINE void report(LossArgs& args, const BadLanes<C>& bad) {
  const int32_t refused = (mask_bits(bad.input) ? kBadInput : 0) |
                          (mask_bits(bad.target) ? kBadTarget : 0) |
                          (mask_bits(bad.third) ? kBadThird : 0);
  if (refused)
    __atomic_fetch_or(&args.refused, refused, __ATOMIC_RELAXED);
}

// Calls f with the functor that `args.loss` names.
template <class T, class F> DLK_INLINE void with_loss(const LossArgs& args, F f) {
  int32_t index = 0;
#define DLK_LOSS(key, Functor, name, shapes)                                                       \
  if (args.loss == index++)                                                                        \
    return f(Functor<Compute<T>>(args.parameters));
  DLK_ELEMENTWISE_LOSSES(DLK_LOSS)
#undef DLK_LOSS
}

} // namespace dlk::DLK_ISA
