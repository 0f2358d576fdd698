// A learned slope below 0, one for all or one per channel:
//
//   y = x where x > 0, else w x
//   dx = g where x > 0, else w g
//   dw = the sum of g x over the elements of a channel where x > 0 does not hold
//
// Bytes per float32 element: forward 8, backward 12: dw comes out of the pass that makes dx (torch
// writes a gradient of w as large as x and sums that up: 28).
// Error: y and dx one rounding; dw: at most 256 (float32: 4096 in 16 lanes) products are added in
// the computing type, those sums in double, in an order that the shapes alone decide.
// Reference: torch.nn.functional.prelu; He et al., Delving Deep into Rectifiers, 2015.
#include "kernels/activations/args.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {
namespace {

constexpr int64_t kSumElems = 4096; // what lanes add up before they go to double

template <class C> DLK_INLINE Vec<C> sloped(Vec<C> x, Vec<C> value, Vec<C> slope) {
  return select(x > Vec<C>(0), value, slope * value);
}
// What x adds to the gradient of the slope; nothing in lanes beyond the end, which are 0.
template <class C> DLK_INLINE Vec<C> slope_gradient(Vec<C> x, Vec<C> g) {
  return select(x > Vec<C>(0), Vec<C>(0), g * x);
}

// --- channels whose elements lie in long rows

template <class T> void forward_rows(const PreluArgs& args) {
  using C = Compute<T>;
  parallel_rows(args.size / args.inner, args.inner, [&](int64_t row, int64_t begin, int64_t end) {
    const Vec<C> slope(load_scalar(static_cast<const T*>(args.weight) + row % args.channels));
    const T* x = static_cast<const T*>(args.input) + row * args.inner + begin;
    T* y = static_cast<T*>(args.output) + row * args.inner + begin;
    for_each_vec_to(y, end - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> value = load_lanes(x + i, lanes);
      store_lanes(y + i, sloped(value, value, slope), lanes);
    });
  });
}

// One block of a row: dx, and the block's part of the slope's gradient. Lanes start at the block's
// first element, whatever the address of dx, so that they always add up the same elements.
template <class T>
DLK_BLOCK double backward_block(const T* g, const T* x, T* dx, int64_t size, Compute<T> weight,
                                bool nontemporal) {
  using C = Compute<T>;
  const Vec<C> slope(weight);
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kSumElems) {
    Vec<C> sum(0);
    const int64_t count = size - begin < kSumElems ? size - begin : kSumElems;
    for_each_vec_masked(dx + begin, count, nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> value = load_lanes(x + begin + i, lanes);
      const Vec<C> grad = load_lanes(g + begin + i, lanes);
      store_lanes(dx + begin + i, sloped(value, grad, slope), lanes);
      sum = sum + slope_gradient(value, grad);
    });
    total += double(sum_lanes(sum));
  }
  return total;
}

template <class T> void backward_rows(const PreluArgs& args) {
  const int64_t rows = args.size / args.inner, blocks = chunk_count(args.inner, kPreluRowBlock);
  parallel_chunks(rows * blocks, args.size, [&](int64_t first, int64_t last, int) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t row = block / blocks, begin = block % blocks * kPreluRowBlock;
      const int64_t left = args.inner - begin, at = row * args.inner + begin;
      args.partials[block] = backward_block(
          static_cast<const T*>(args.grad_output) + at, static_cast<const T*>(args.input) + at,
          static_cast<T*>(args.output) + at, left < kPreluRowBlock ? left : kPreluRowBlock,
          load_scalar(static_cast<const T*>(args.weight) + row % args.channels), args.nontemporal);
    }
  });
  for (int64_t channel = 0; channel < args.channels; ++channel) {
    double sum = 0;
    for (int64_t row = channel; row < rows; row += args.channels)
      for (int64_t block = 0; block < blocks; ++block)
        sum += args.partials[row * blocks + block];
    store_scalar(static_cast<T*>(args.grad_weight) + channel, Compute<T>(sum));
  }
}

// --- channels whose elements alternate: a slope for every place of a period

// The slopes of a period and of one vector more, which begins the next.
template <class T> const Compute<T>* fill_slopes(const PreluArgs& args, int64_t period) {
  Compute<T>* slopes = static_cast<Compute<T>*>(args.scratch);
  const T* weight = static_cast<const T*>(args.weight);
  for (int64_t place = 0; place < period + 16; ++place)
    slopes[place] = load_scalar(weight + place / args.inner % args.channels);
  return slopes;
}

// Follows the place in the period of a loop's index.
struct Period {
  int64_t size, start = 0;

  DLK_INLINE int64_t place(int64_t index) {
    if (index - start >= size)
      start += size;
    return index - start;
  }
};

template <class T> void forward_periods(const PreluArgs& args) {
  using C = Compute<T>;
  const int64_t size = prelu_period(args), chunk = prelu_period_chunk(args);
  const C* slopes = fill_slopes<T>(args, size);
  parallel_chunks(chunk_count(args.size, chunk), args.size, [&](int64_t first, int64_t last, int) {
    const int64_t begin = first * chunk, end = last * chunk < args.size ? last * chunk : args.size;
    const T* x = static_cast<const T*>(args.input) + begin;
    T* y = static_cast<T*>(args.output) + begin;
    Period period{size};
    for_each_vec_to(y, end - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> value = load_lanes(x + i, lanes);
      store_lanes(y + i, sloped(value, value, load(slopes + period.place(i))), lanes);
    });
  });
}

// One chunk: dx, and for every place of the period the sum over the chunk's rounds. Vectors start
// at the chunk's first element, so that sums are cut where the period ends in the same way always.
template <class T>
DLK_BLOCK void backward_chunk(const T* g, const T* x, T* dx, int64_t size, int64_t period_size,
                              const Compute<T>* slopes, Compute<T>* sums, bool nontemporal) {
  using C = Compute<T>;
  for (int64_t place = 0; place < period_size + 16; ++place)
    sums[place] = 0;
  Period period{period_size};
  for_each_vec_masked(dx, size, nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
    const int64_t place = period.place(i);
    const Vec<C> value = load_lanes(x + i, lanes), grad = load_lanes(g + i, lanes);
    store_lanes(dx + i, sloped(value, grad, load(slopes + place)), lanes);
    store(sums + place, load(sums + place) + slope_gradient(value, grad));
  });
}

template <class T> void backward_periods(const PreluArgs& args) {
  using C = Compute<T>;
  const int64_t size = prelu_period(args), chunk = prelu_period_chunk(args);
  const int64_t chunks = chunk_count(args.size, chunk);
  const C* slopes = fill_slopes<T>(args, size);
  parallel_chunks(chunks, args.size, [&](int64_t first, int64_t last, int thread) {
    C* sums = static_cast<C*>(args.scratch) + (1 + thread) * (size + 16);
    for (int64_t index = first; index < last; ++index) {
      const int64_t begin = index * chunk, left = args.size - begin;
      backward_chunk(static_cast<const T*>(args.grad_output) + begin,
                     static_cast<const T*>(args.input) + begin,
                     static_cast<T*>(args.output) + begin, left < chunk ? left : chunk, size,
                     slopes, sums, args.nontemporal);
      double* partials = args.partials + index * args.channels;
      for (int64_t channel = 0; channel < args.channels; ++channel)
        partials[channel] = 0;
      int64_t channel = 0;
      for (int64_t place = 0; place < size + 16;) {
        for (int64_t i = 0; i < args.inner && place < size + 16; ++i)
          partials[channel] += double(sums[place++]);
        channel = channel + 1 < args.channels ? channel + 1 : 0;
      }
    }
  });
  for (int64_t channel = 0; channel < args.channels; ++channel) {
    double sum = 0;
    for (int64_t index = 0; index < chunks; ++index)
      sum += args.partials[index * args.channels + channel];
    store_scalar(static_cast<T*>(args.grad_weight) + channel, C(sum));
  }
}

} // namespace

void prelu(PreluArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    prelu_has_long_rows(args) ? forward_rows<T>(args) : forward_periods<T>(args);
  });
}

void prelu_backward(PreluArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    prelu_has_long_rows(args) ? backward_rows<T>(args) : backward_periods<T>(args);
  });
}

} // namespace dlk::DLK_ISA
