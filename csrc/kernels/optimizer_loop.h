// The loop that every optimizer shares: (array, chunk) pieces of all arrays in one parallel region,
// tails, strides, and mixtures of dtypes. An optimizer is a functor, in a file of its family:
//
//   template <class C> struct Rule {              // C: float or double, what is computed in
//     explicit Rule(const double* numbers);       // from its setting
//     template <int kMask>                        // bit k: state k is kept
//     void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const;  // one vector, in registers
//   };
//   void rule(OptimizerArgs& args) noexcept { run_optimizer<Rule, masks...>(args); }
//
// Where the streams are of one dtype and lie side by side they are walked in place; else blocks of
// them are brought to the dtype of computation and back, each rounded once, through the same
// update. float64 is computed in where one of the streams is of it.
#pragma once

#include "simd/loops.h"

namespace dlk::DLK_ISA {

// The hardware's prefetcher keeps each of several streams too short a way ahead: 8 % of a step over
// 50 M elements.
template <class T> DLK_INLINE void fetch_ahead(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 2048);
}

// The start of an array that is two ahead: where thousands are small, each would wait for its own.
DLK_INLINE void fetch_first_lines(const OptimizerArray& array) {
  for (const void* stream : array.streams)
    for (int64_t byte = 0; stream && byte < 256; byte += 64)
      __builtin_prefetch(static_cast<const char*>(stream) + byte);
}

template <int k> struct Slot {
  static constexpr int index = k;
};

// body(Slot<k>) for the states that are kept
template <int kMask, class Body> DLK_INLINE void each_slot(Body&& body) {
  static_assert(kOptimizerSlots == 3);
  if constexpr (kMask & 1)
    body(Slot<0>{});
  if constexpr (kMask & 2)
    body(Slot<1>{});
  if constexpr (kMask & 4)
    body(Slot<2>{});
}

// What most rules do to the gradient first.
template <class C> struct GradientTerm {
  const Vec<C> weight_decay;
  const bool has_decay, maximize;

  GradientTerm(double weight_decay_number, double maximize_number)
      : weight_decay(C(weight_decay_number)), has_decay(weight_decay_number != 0),
        maximize(maximize_number != 0) {}

  DLK_INLINE Vec<C> operator()(Vec<C> g, Vec<C> p) const {
    if (maximize)
      g = -g;
    return has_decay ? fma(p, weight_decay, g) : g;
  }
};

// torch.lerp: from whichever end is nearer.
template <class C> struct Lerp {
  const Vec<C> weight;
  const bool from_end;

  explicit Lerp(double number)
      : weight(C(number < 0.5 ? number : number - 1)), from_end(number >= 0.5) {}

  DLK_INLINE Vec<C> operator()(Vec<C> start, Vec<C> end) const {
    return fma(weight, end - start, from_end ? end : start);
  }
};

// The larger; NaN where either is.
template <class C> DLK_INLINE Vec<C> maximum(Vec<C> a, Vec<C> b) {
  return select(a != a, a, max(a, b));
}

// A piece whose streams are of one type and side by side.
template <int kMask, class Rule, class T>
DLK_INLINE void update_streams(const Rule& rule, void* const* streams, int64_t begin,
                               int64_t size) {
  using C = Compute<T>;
  T* const param = static_cast<T*>(streams[0]) + begin;
  const T* const grad = static_cast<const T*>(streams[1]) + begin;
  T* states[kOptimizerSlots] = {};
  each_slot<kMask>([&](auto slot) DLK_BODY {
    states[slot.index] = static_cast<T*>(streams[2 + slot.index]) + begin;
  });
  for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
    fetch_ahead(param + i);
    fetch_ahead(grad + i);
    Vec<C> p = load_lanes(param + i, lanes), s[kOptimizerSlots];
    each_slot<kMask>([&](auto slot) DLK_BODY {
      fetch_ahead(states[slot.index] + i);
      s[slot.index] = load_lanes(states[slot.index] + i, lanes);
    });
    rule.template update<kMask>(p, load_lanes(grad + i, lanes), s);
    each_slot<kMask>([&](auto slot)
                         DLK_BODY { store_lanes(states[slot.index] + i, s[slot.index], lanes); });
    store_lanes(param + i, p, lanes);
  });
}

constexpr int64_t kOptimizerBlock = 256;

// `size` elements, at most a block, to the type of computation.
template <class C>
DLK_BLOCK void read_block(C* block, const void* data, DType dtype, int64_t stride, int64_t size) {
  with_storage_type(dtype, [&](auto type) DLK_BODY {
    using T = decltype(type);
    using Wide = Compute<T>;
    T gathered[kOptimizerBlock];
    const T* source = static_cast<const T*>(data);
    if (stride != 1) {
      for (int64_t i = 0; i < size; ++i)
        gathered[i] = source[i * stride];
      source = gathered;
    }
    alignas(kVecBytes) Wide wide[kOptimizerBlock];
    for_each_vec<Wide>(size, [&](int64_t i, auto lanes) DLK_BODY {
      store_lanes(wide + i, load_lanes(source + i, lanes), lanes);
    });
    for (int64_t i = 0; i < size; ++i)
      block[i] = C(wide[i]);
  });
}

template <class C>
DLK_BLOCK void write_block(const C* block, void* data, DType dtype, int64_t stride, int64_t size) {
  with_storage_type(dtype, [&](auto type) DLK_BODY {
    using T = decltype(type);
    using Wide = Compute<T>;
    T scattered[kOptimizerBlock];
    T* const target = static_cast<T*>(data);
    T* const rounded = stride == 1 ? target : scattered;
    alignas(kVecBytes) Wide wide[kOptimizerBlock];
    for (int64_t i = 0; i < size; ++i)
      wide[i] = Wide(block[i]);
    for_each_vec<Wide>(size, [&](int64_t i, auto lanes) DLK_BODY {
      store_lanes(rounded + i, load_lanes(wide + i, lanes), lanes);
    });
    if (stride != 1)
      for (int64_t i = 0; i < size; ++i)
        target[i * stride] = scattered[i];
  });
}

// A piece with gaps or of several dtypes.
template <template <class> class Rule, int kMask, class C>
DLK_BLOCK void update_blocks(const OptimizerArray& array, const OptimizerLayout& layout,
                             const double* numbers, int64_t begin, int64_t end) {
  alignas(kVecBytes) C blocks[kOptimizerStreams][kOptimizerBlock];
  void* pointers[kOptimizerStreams];
  for (int stream = 0; stream < kOptimizerStreams; ++stream)
    pointers[stream] = blocks[stream];
  const Rule<C> rule(numbers);
  for (int64_t first = begin; first < end; first += kOptimizerBlock) {
    const int64_t size = end - first < kOptimizerBlock ? end - first : kOptimizerBlock;
    const auto address = [&](int stream) {
      return static_cast<char*>(array.streams[stream]) +
             first * layout.strides[stream] * item_size(layout.dtypes[stream]);
    };
    for (int stream = 0; stream < kOptimizerStreams; ++stream)
      if (array.streams[stream])
        read_block(blocks[stream], address(stream), layout.dtypes[stream], layout.strides[stream],
                   size);
    update_streams<kMask, Rule<C>, C>(rule, pointers, 0, size);
    for (int stream = 0; stream < kOptimizerStreams; ++stream)
      if (array.streams[stream] && stream != 1)
        write_block(blocks[stream], address(stream), layout.dtypes[stream], layout.strides[stream],
                    size);
  }
}

template <template <class> class Rule, int kMask>
DLK_BLOCK void update_piece(const OptimizerArgs& args, const OptimizerArray& array, int64_t begin,
                            int64_t end) {
  const OptimizerLayout& layout = args.layouts[array.layout];
  const double* numbers = args.settings[array.setting].numbers;
  if (layout.plain)
    return with_storage_type(layout.dtypes[0], [&](auto type) DLK_BODY {
      using T = decltype(type);
      const Rule<Compute<T>> rule(numbers);
      update_streams<kMask, Rule<Compute<T>>, T>(rule, array.streams, begin, end - begin);
    });
  bool has_double = false;
  for (int stream = 0; stream < kOptimizerStreams; ++stream)
    has_double |= array.streams[stream] && layout.dtypes[stream] == DType::float64;
  if (has_double)
    update_blocks<Rule, kMask, double>(array, layout, numbers, begin, end);
  else
    update_blocks<Rule, kMask, float>(array, layout, numbers, begin, end);
}

// kMasks: the sets of states that the rule may keep.
template <template <class> class Rule, int... kMasks>
DLK_INLINE void run_optimizer(const OptimizerArgs& args) {
  parallel_chunks(args.chunk_count, args.total_elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const OptimizerChunk& chunk = args.chunks[index];
      const OptimizerArray& array = args.arrays[chunk.array];
      if (index + 2 < args.chunk_count)
        fetch_first_lines(args.arrays[args.chunks[index + 2].array]);
      int mask = 0;
      for (int slot = 0; slot < kOptimizerSlots; ++slot)
        mask |= (array.streams[2 + slot] != nullptr) << slot;
      (void)((mask == kMasks &&
              (update_piece<Rule, kMasks>(args, array, chunk.begin, chunk.end), true)) ||
             ...);
    }
  });
}

} // namespace dlk::DLK_ISA
