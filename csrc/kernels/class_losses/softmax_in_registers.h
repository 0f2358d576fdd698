// Softmax of rows so short that they stay in registers: read once, written once, without a function
// call or a scalar in between. Every kernel computes rows of so few classes this way, so that their
// bits do not depend on which one did it.
#pragma once

#include "kernels/class_losses/args.h"
#include "simd/loops.h"
#include "simd/math.h"

namespace dlk::DLK_ISA {

constexpr int kShortRowVecs = 4;

template <class T> DLK_INLINE bool is_short_row(int64_t classes) {
  return classes > 0 && classes <= kShortRowVecs * Vec<Compute<T>>::kLanes;
}

// Rows of kVecs vectors each, of which the last is a step of another kind if it is partial. Forward
// takes two at a time: while one waits for its largest value and its sum, the other's exponentials
// are made (500,000 rows of 64: 6.3 ms one by one, 5.4 ms). Backward waits for memory and is slower
// that way.
template <class T, int kVecs, class Whole, class Last> struct ShortRows {
  using C = Compute<T>;
  static constexpr int64_t kLanes = Vec<C>::kLanes;
  Last last;

  template <int kRows> struct Values {
    Vec<C> of[kRows][kVecs];
    DLK_INLINE Vec<C>* operator[](int row) { return of[row]; }
    DLK_INLINE const Vec<C>* operator[](int row) const { return of[row]; }
  };

  template <int kRows>
  DLK_INLINE void read(const T* const (&from)[kRows], Values<kRows>& to, C fill) const {
#pragma GCC unroll 2
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
      for (int i = 0; i < kVecs - 1; ++i)
        to[row][i] = load_lanes(from[row] + i * kLanes, Whole{});
      to[row][kVecs - 1] = load_lanes(from[row] + (kVecs - 1) * kLanes, last, fill);
    }
  }
  template <int kRows>
  DLK_INLINE void write(T* const (&to)[kRows], const Values<kRows>& from) const {
#pragma GCC unroll 2
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
      for (int i = 0; i < kVecs - 1; ++i)
        store_lanes(to[row] + i * kLanes, from[row][i], Whole{});
      store_lanes(to[row] + (kVecs - 1) * kLanes, from[row][kVecs - 1], last);
    }
  }
  // f(row, i) for every vector
  template <int kRows, class F> DLK_INLINE static void each(F f) {
#pragma GCC unroll 2
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
      for (int i = 0; i < kVecs; ++i)
        f(row, i);
  }
  template <class Operation, int kRows>
  DLK_INLINE static void reduce(const Values<kRows>& values, Vec<C> (&result)[kRows]) {
    each<kRows>([&](int row, int i) DLK_BODY {
      result[row] = i ? Operation::vec(result[row], values[row][i]) : values[row][0];
    });
#pragma GCC unroll 2
    for (int row = 0; row < kRows; ++row)
      result[row] = reduce_to_lanes<Operation>(result[row]);
  }

  // e^(x - shift) and, in all lanes, the shift and the sum.
  template <int kRows>
  DLK_INLINE void exponentials(const T* const (&x)[kRows], Values<kRows>& e, Vec<C> (&shift)[kRows],
                               Vec<C> (&total)[kRows]) const {
    const C lowest = C(-__builtin_inf());
    Values<kRows> value;
    read(x, value, lowest);
    reduce<MaxLanes<C>, kRows>(value, shift);
#pragma GCC unroll 2
    for (int row = 0; row < kRows; ++row) // 0: only -inf, or a NaN
      shift[row] = select(shift[row] > Vec<C>(lowest), shift[row], Vec<C>(0));
    each<kRows>([&](int row, int i) DLK_BODY {
      Vec<C> rounded;
      e[row][i] = exp_bounded(value[row][i] - shift[row], rounded);
    });
    reduce<PlusLanes<C>, kRows>(e, total);
  }

  template <int kRows>
  DLK_INLINE void softmax(const T* const (&x)[kRows], T* const (&y)[kRows]) const {
    Values<kRows> e;
    Vec<C> shift[kRows], total[kRows];
    exponentials(x, e, shift, total);
#pragma GCC unroll 2
    for (int row = 0; row < kRows; ++row)
      total[row] = Vec<C>(1) / total[row];
    each<kRows>([&](int row, int i) DLK_BODY { e[row][i] = e[row][i] * total[row]; });
    write(y, e);
  }

  // Of at most kLanes rows, whose logarithms are one vector's: row by row they took a quarter of
  // the time.
  DLK_INLINE void log_softmax(int count, const T* const (&x)[kLanes], T* const (&y)[kLanes]) const {
    alignas(kVecBytes) C shifts[kLanes], logs[kLanes];
    store(logs, Vec<C>(1));
    int row = 0;
    for (; row + 2 <= count; row += 2)
      sums<2>({x[row], x[row + 1]}, shifts + row, logs + row);
    if (row < count)
      sums<1>({x[row]}, shifts + row, logs + row);
    store(logs, log(load(logs)));
    for (row = 0; row < count; ++row) {
      const Vec<C> shift(shifts[row]), log_sum(logs[row]);
      Values<1> value;
      read<1>({x[row]}, value, C(0));
      each<1>([&](int, int i)
                  DLK_BODY { value[0][i] = min(Vec<C>(0), (value[0][i] - shift) - log_sum); });
      write<1>({y[row]}, value);
    }
  }
  template <int kRows>
  DLK_INLINE void sums(const T* const (&x)[kRows], C* shifts, C* totals) const {
    Values<kRows> e;
    Vec<C> shift[kRows], total[kRows];
    exponentials(x, e, shift, total);
#pragma GCC unroll 2
    for (int row = 0; row < kRows; ++row) {
      shifts[row] = shift[row].part[0][0];
      totals[row] = total[row].part[0][0];
    }
  }

  DLK_INLINE void gradient(bool logarithm, const T* y, const T* g, T* dx) const {
    Values<1> out, grad, term;
    Vec<C> total(C(0));
    read<1>({y}, out, C(0));
    read<1>({g}, grad, C(0));
    each<1>([&](int row, int i) DLK_BODY {
      total = logarithm ? total + grad[row][i] : fma(grad[row][i], out[row][i], total);
    });
    total = reduce_to_lanes<PlusLanes<C>>(total);
    each<1>([&](int row, int i) DLK_BODY {
      term[row][i] = logarithm ? fma(-exp(out[row][i]), total, grad[row][i])
                               : out[row][i] * (grad[row][i] - total);
    });
    write<1>({dx}, term);
  }
};

template <int kCount> struct VecCount {
  static constexpr int value = kCount;
};

// f(rows) with the ShortRows of so many classes. `streams`: whole vectors are written past the
// cache, and every row starts where that is possible.
template <class T, class F> DLK_INLINE void with_short_rows(int64_t classes, bool streams, F f) {
  constexpr int64_t lanes = Vec<Compute<T>>::kLanes;
  const PartialVec rest{(classes - 1) % lanes + 1};
  const bool whole = rest.count == lanes;
  const auto of_vecs = [&](auto vecs) DLK_BODY {
    constexpr int kVecs = decltype(vecs)::value;
    if (whole && streams)
      f(ShortRows<T, kVecs, StreamedVec, StreamedVec>{{}});
    else if (whole)
      f(ShortRows<T, kVecs, WholeVec, WholeVec>{{}});
    else
      f(ShortRows<T, kVecs, WholeVec, PartialVec>{rest});
  };
  switch ((classes + lanes - 1) / lanes) {
  case 1:
    return of_vecs(VecCount<1>());
  case 2:
    return of_vecs(VecCount<2>());
  case 3:
    return of_vecs(VecCount<3>());
  default:
    return of_vecs(VecCount<4>());
  }
}

} // namespace dlk::DLK_ISA
