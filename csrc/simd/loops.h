// The loops of kernels: whole vectors, then the rest through partial loads and stores and the same
// formula; chunks of fixed bounds shared out among threads.
#pragma once

#include "runtime/threads.h"
#include "simd/half.h"

namespace dlk::DLK_ISA {

// What a step of a loop covers. A loop's body takes one of these and hands it to load_lanes and
// store_lanes.
struct WholeVec {};
struct StreamedVec {}; // whole, its stores go past the cache
struct PartialVec {
  int64_t count; // lanes [0, count)
};

// The same elements, not past the cache.
template <class Lanes> DLK_INLINE Lanes in_cache(Lanes lanes) {
  return lanes;
}
DLK_INLINE WholeVec in_cache(StreamedVec) {
  return {};
}

template <class T> DLK_INLINE Vec<Compute<T>> load_lanes(const T* p, WholeVec, Compute<T> = 0) {
  return load(p);
}
// Where much is computed per element, some processors' own prefetchers run too few steps ahead
// (binary_cross_entropy_with_logits of 32 M elements 37 -> 14 ms). A larger distance disturbs those
// of others: at 2 KB mse_loss took a quarter longer on Zen 4, softmax a fifth, and an optimizer's
// step, which has the most streams, is best without.
constexpr int64_t kFetchAheadBytes = 512;
template <class T> DLK_INLINE void fetch_ahead(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kFetchAheadBytes);
}
template <class T> DLK_INLINE Vec<Compute<T>> load_lanes(const T* p, StreamedVec, Compute<T> = 0) {
  fetch_ahead(p);
  return load(p);
}
template <class T>
DLK_INLINE Vec<Compute<T>> load_lanes(const T* p, PartialVec lanes, Compute<T> fill = 0) {
  return load_partial(p, lanes.count, fill);
}
template <class T> DLK_INLINE void store_lanes(T* p, Vec<Compute<T>> v, WholeVec) {
  store(p, v);
}
template <class T> DLK_INLINE void store_lanes(T* p, Vec<Compute<T>> v, StreamedVec) {
  stream(p, v);
}
template <class T> DLK_INLINE void store_lanes(T* p, Vec<Compute<T>> v, PartialVec lanes) {
  store_partial(p, v, lanes.count);
}

template <class T> DLK_INLINE IntVec<T> lane_indices() {
  alignas(kVecBytes) static constexpr typename LaneTraits<T>::Int indices[16] = {
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  IntVec<T> r;
  constexpr int lanes = kNativeBytes / sizeof(T);
  DLK_PARTS(r.part[i] =
                *reinterpret_cast<const typename LaneTraits<T>::NativeInt*>(indices + i * lanes);)
  return r;
}

template <class T> DLK_INLINE IntVec<T> equal(IntVec<T> a, IntVec<T> b) {
  IntVec<T> r;
  DLK_PARTS(r.part[i] = a.part[i] == b.part[i];)
  return r;
}

// Zero in the lanes that a step does not cover, for sums.
template <class T> DLK_INLINE Vec<T> zero_beyond(Vec<T> v, WholeVec) {
  return v;
}
template <class T> DLK_INLINE Vec<T> zero_beyond(Vec<T> v, PartialVec lanes) {
  alignas(kVecBytes) T values[Vec<T>::kLanes];
  store(values, v);
  return load_partial(values, lanes.count, T(0));
}

// body(index, lanes) over [0, size)
template <class T, class Body> DLK_INLINE void for_each_vec(int64_t size, Body&& body) {
  constexpr int64_t lanes = Vec<T>::kLanes;
  int64_t index = 0;
  for (; index + lanes <= size; index += lanes)
    body(index, WholeVec{});
  if (index < size)
    body(index, PartialVec{size - index});
}

// The same for a loop that writes `output`, past the cache if `nontemporal`: then a partial step
// first, up to where the output is aligned.
template <class T, class Body>
DLK_INLINE void for_each_vec_to(const T* output, int64_t size, bool nontemporal, Body&& body) {
  constexpr int64_t lanes = Vec<Compute<T>>::kLanes, step_bytes = lanes * sizeof(T);
  const int64_t past = reinterpret_cast<uintptr_t>(output) % step_bytes;
  const bool streams = nontemporal && past % sizeof(T) == 0;
  int64_t index = streams && past ? (step_bytes - past) / int64_t(sizeof(T)) : 0;
  if (index > size)
    index = size;
  if (index)
    body(int64_t{0}, PartialVec{index});
  if (streams)
    for (; index + lanes <= size; index += lanes)
      body(index, StreamedVec{});
  else
    for (; index + lanes <= size; index += lanes)
      body(index, WholeVec{});
  if (index < size)
    body(index, PartialVec{size - index});
}

// The same where a step must start on a multiple of the vector (a mask of bits goes with it):
// streams only if the output is aligned from the start.
template <class T, class Body>
DLK_INLINE void for_each_vec_masked(const T* output, int64_t size, bool nontemporal, Body&& body) {
  constexpr int64_t step_bytes = Vec<Compute<T>>::kLanes * sizeof(T);
  const bool aligned = reinterpret_cast<uintptr_t>(output) % step_bytes == 0;
  for_each_vec_to(output, size, nontemporal && aligned, body);
}

// sum = a + b, and what that lacks (Knuth), of doubles or vectors of them.
template <class V> DLK_INLINE V two_sum(V a, V b, V& sum) {
  sum = a + b;
  const V part = sum - a;
  return (a - (sum - part)) + (b - part);
}

// A sum of doubles that carries its rounding errors along: a mean over thousands of float64 rows
// stays as good as one rounding. (Neumaier's has a branch that no processor foresees.)
struct CompensatedSum {
  double sum = 0, lost = 0;

  DLK_INLINE void add(double value) { lost += two_sum(sum, value, sum); }
  DLK_INLINE double total() const {
    const double value = sum + lost;
    return value == value ? value : sum; // an infinite sum has lost a NaN
  }
};

// function(begin, end, thread) over chunks [0, count); what it streams past the cache is seen by
// everyone afterwards (a fence a piece: one a row would stop the stores of the next).
template <class Function>
DLK_INLINE void parallel_chunks(int64_t count, int64_t work_elems, Function function) {
  runtime::parallel_for(
      count, work_elems,
      [](void* context, int64_t begin, int64_t end, int thread) noexcept {
        (*static_cast<Function*>(context))(begin, end, thread);
        stream_fence();
      },
      &function);
}

// Elements of one chunk of a map: 64 KB of float32, so that the cost of taking it hardly counts.
constexpr int64_t kMapChunkElems = 16384;

// body(begin, end) over [0, size) in chunks
template <class Body> DLK_INLINE void parallel_elements(int64_t size, Body body) {
  parallel_chunks((size + kMapChunkElems - 1) / kMapChunkElems, size,
                  [=](int64_t begin, int64_t end, int) {
                    const int64_t stop = end * kMapChunkElems;
                    body(begin * kMapChunkElems, stop < size ? stop : size);
                  });
}

// body(row, begin, end) over rows of `cols` elements: long rows in pieces of a chunk, short ones
// several to a chunk
template <class Body> DLK_INLINE void parallel_rows(int64_t rows, int64_t cols, Body body) {
  if (cols >= kMapChunkElems) {
    const int64_t pieces = (cols + kMapChunkElems - 1) / kMapChunkElems;
    parallel_chunks(rows * pieces, rows * cols, [=](int64_t begin, int64_t end, int) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t start = chunk % pieces * kMapChunkElems, stop = start + kMapChunkElems;
        body(chunk / pieces, start, stop < cols ? stop : cols);
      }
    });
    return;
  }
  const int64_t chunk_rows = kMapChunkElems / (cols ? cols : 1);
  parallel_chunks((rows + chunk_rows - 1) / chunk_rows, rows * cols,
                  [=](int64_t begin, int64_t end, int) {
                    const int64_t stop = end * chunk_rows < rows ? end * chunk_rows : rows;
                    for (int64_t row = begin * chunk_rows; row < stop; ++row)
                      body(row, 0, cols);
                  });
}

} // namespace dlk::DLK_ISA
