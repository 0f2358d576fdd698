// Dropout and its relatives, element by element or plane by plane.
//
//   dropout        y = x * (kept ? 1 / (1 - p) : 0)
//   with residual  y = x * (kept ? 1 / (1 - p) : 0) + r
//   alpha_dropout  y = x * (kept ? a : 0) + (kept ? b : b + a alpha'), which keeps mean 0 and
//                  variance 1: alpha' = -1.7580993, a = 1 / sqrt((alpha'^2 p + 1)(1 - p)),
//                  b = -a alpha' p
//
// What is dropped is gone, whatever it was: a dropped NaN or infinity gives 0 (the shift, the
// residual) too, where torch multiplies it by 0 and has NaN. Each is its own backward: the same
// factors on grad_output, without the shift.
//
// The mask is a function of seed and element (keep_mask.h). Backward draws it again, or reads a bit
// per element that forward has kept. Bytes per float32 element: 8 forward, 8 backward (1/8 more
// each with the bits); 12 with a residual.
//
// Tried: drawing again against bits. 32 M elements, two threads of a busy machine, AVX-512,
// streamed past the cache: backward 12.2 ms drawn again, 9.5 ms from bits (relu's, from bits
// too: 10.2); forward the same with and without keeping them. Where the output is not streamed both
// are bound by memory. So torch's autograd keeps the bits; the NumPy functions and compiled graphs,
// which have no place for them, draw again.
//
// Error: 1.5 eps of the product (1 - p, the factor and the product are rounded), 1/2 more for a
// sum; half types round once.
//
// Reference: torch.dropout, torch.alpha_dropout, torch.feature_dropout.
#include "kernels/dropout/keep_mask.h"

namespace dlk::DLK_ISA {
namespace {

static_assert(kMapChunkElems % kDrawElems == 0);

template <class C> struct Scale {
  Vec<C> factor;
  explicit Scale(const DropoutArgs& args) : factor(C(args.factor)) {}
  DLK_INLINE Vec<C> operator()(Vec<C> x, uint32_t bits) const { return keep(bits, x * factor); }
};

template <class C> struct ScaleAndShift {
  Vec<C> factor, kept, dropped;
  explicit ScaleAndShift(const DropoutArgs& args)
      : factor(C(args.factor)), kept(C(args.kept_shift)), dropped(C(args.dropped_shift)) {}
  DLK_INLINE Vec<C> operator()(Vec<C> x, uint32_t bits) const {
    return choose(bits, fma(x, factor, kept), dropped);
  }
};

// f(functor) of the formula that the arguments ask for.
template <class C, class F> DLK_INLINE void with_formula(const DropoutArgs& args, F f) {
  args.shifted ? f(ScaleAndShift<C>(args)) : f(Scale<C>(args));
}

// body(index, lanes, bits) over a chunk, past the cache where that is wanted and possible.
template <class T, class Body>
DLK_INLINE void drawn_to(const DropoutArgs& args, const T* output, const KeepMask& mask,
                         int64_t begin, int64_t end, Body&& body) {
  using C = Compute<T>;
  constexpr int64_t step_bytes = Vec<C>::kLanes * sizeof(T);
  if (args.nontemporal && reinterpret_cast<uintptr_t>(output + begin) % step_bytes == 0) {
    for_each_drawn<C, StreamedVec>(mask, args.kept_in, args.kept_out, begin, end, body);
  } else {
    for_each_drawn<C, WholeVec>(mask, args.kept_in, args.kept_out, begin, end, body);
  }
}

template <class T> void elements(const DropoutArgs& args) {
  using C = Compute<T>;
  const T* x = static_cast<const T*>(args.input);
  const T* residual = static_cast<const T*>(args.residual);
  T* y = static_cast<T*>(args.output);
  const KeepMask mask(args.seed, args.limit, args.factor);
  if (residual) {
    const Vec<C> factor(C(args.factor));
    parallel_elements(args.size, [&](int64_t begin, int64_t end) {
      drawn_to(args, y, mask, begin, end, [&](int64_t i, auto lanes, uint32_t bits) DLK_BODY {
        const Vec<C> r = load_lanes(residual + i, lanes);
        store_lanes(y + i, choose(bits, fma(load_lanes(x + i, lanes), factor, r), r), lanes);
      });
    });
    return;
  }
  with_formula<C>(args, [&](const auto& formula) {
    parallel_elements(args.size, [&](int64_t begin, int64_t end) {
      drawn_to(args, y, mask, begin, end, [&](int64_t i, auto lanes, uint32_t bits) DLK_BODY {
        store_lanes(y + i, formula(load_lanes(x + i, lanes), bits), lanes);
      });
    });
  });
}

// Planes of `plane` elements, each kept or dropped as a whole.
template <class T> void planes(const DropoutArgs& args) {
  using C = Compute<T>;
  const T* x = static_cast<const T*>(args.input);
  T* y = static_cast<T*>(args.output);
  const KeepMask mask(args.seed, args.limit, args.factor);
  with_formula<C>(args, [&](const auto& formula) {
    parallel_elements(args.size, [&](int64_t begin, int64_t end) {
      int64_t drawn = -1;
      uint64_t word = 0;
      while (begin < end) {
        const int64_t index = begin / args.plane;
        const int64_t stop = (index + 1) * args.plane < end ? (index + 1) * args.plane : end;
        if (index / kDrawElems != drawn) {
          drawn = index / kDrawElems;
          word = mask.one(drawn * kDrawElems);
        }
        const uint32_t bits = word >> (index % kDrawElems) & 1 ? ~uint32_t(0) : 0;
        for_each_vec_to(
            y + begin, stop - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
              store_lanes(y + begin + i, formula(load_lanes(x + begin + i, lanes), bits), lanes);
            });
        begin = stop;
      }
    });
  });
}

// The same where the channels lie side by side: rows of `channels` elements, `plane` of them with
// the same bits.
template <class T> void channels_last(const DropoutArgs& args) {
  using C = Compute<T>;
  constexpr int lanes_per_vec = Vec<C>::kLanes;
  const T* x = static_cast<const T*>(args.input);
  T* y = static_cast<T*>(args.output);
  const KeepMask mask(args.seed, args.limit, args.factor);
  const int64_t channels = args.channels, row_words = chunk_count(channels, kDrawElems);
  const int64_t rows = args.size / channels, images = rows / args.plane;
  parallel_chunks(images, images * channels, [&](int64_t begin, int64_t end, int) {
    for (int64_t image = begin; image < end; ++image)
      mask.draw(args.words + image * row_words, image * channels, channels);
  });
  const int64_t chunk_rows = chunk_count(kMapChunkElems, channels);
  with_formula<C>(args, [&](const auto& formula) {
    parallel_chunks(chunk_count(rows, chunk_rows), args.size,
                    [&](int64_t first, int64_t last, int) {
                      const int64_t end = last * chunk_rows < rows ? last * chunk_rows : rows;
                      for (int64_t row = first * chunk_rows; row < end; ++row) {
                        const uint64_t* words = args.words + row / args.plane * row_words;
                        const T* from = x + row * channels;
                        T* to = y + row * channels;
                        for_each_vec<C>(channels, [&](int64_t c, auto lanes) DLK_BODY {
                          const uint32_t bits = uint32_t(words[c / kDrawElems] >> (c % kDrawElems));
                          static_assert(kDrawElems % lanes_per_vec == 0);
                          store_lanes(to + c, formula(load_lanes(from + c, lanes), bits), lanes);
                        });
                      }
                    });
  });
}

} // namespace

void dropout(DropoutArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    if (args.channels)
      channels_last<T>(args);
    else if (args.plane > 1)
      planes<T>(args);
    else
      elements<T>(args);
  });
}

// What the generator's tests call: nothing in the library does.
void philox(PhiloxArgs& args) noexcept {
  const Philox random(args.key);
  PhiloxWords counter;
  for (int word = 0; word < 4; ++word)
    counter.word[word] = IntVec<double>(int64_t(args.words[word]));
  const PhiloxWords block = random(counter);
  for (int word = 0; word < 4; ++word)
    args.words[word] = uint32_t(block.word[word].part[kParts - 1][0]);
}

} // namespace dlk::DLK_ISA
