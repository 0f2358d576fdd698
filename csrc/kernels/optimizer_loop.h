// The loop that every optimizer shares: (array, chunk) pieces of all arrays in one parallel region,
// tails, strides, mixtures of dtypes and formats. An optimizer is a functor, in a file of its
// family:
//
//   template <class C> struct Rule {              // C: float or double, what is computed in
//     static constexpr int kSignedSlots = ...;    // bit k: state k has a sign; if they may be codes
//     explicit Rule(const double* numbers);       // from its setting
//     template <int kMask>                        // bit k: state k is kept
//     void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const;  // one vector, in registers
//   };
//   void rule(OptimizerArgs& args) noexcept { run_optimizer<Rule, masks...>(args); }
//
// Where the streams are of one dtype and lie side by side they are walked as they are. Else a block
// at a time: a stream that is of the type of computation and side by side is worked on where it is,
// any other is brought to a buffer in L1 and back, each element rounded once; and what a step does
// besides its rule (optimizer_extras.h) is done to the block while it is there. float64 is computed
// in where one of the streams is of it.
#pragma once

#include "kernels/optimizer_extras.h"

namespace dlk::DLK_ISA {

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

// The larger; NaN where either is.
template <class C> DLK_INLINE Vec<C> maximum(Vec<C> a, Vec<C> b) {
  return select(a != a, a, max(a, b));
}

// `size` elements whose streams are of one type and side by side.
template <template <class> class Rule, int kMask, class T>
DLK_BLOCK void update_streams(const double* numbers, void* const* streams, int64_t begin,
                              int64_t size) {
  using C = Compute<T>;
  const Rule<C> rule(numbers);
  T* const param = static_cast<T*>(streams[kParamStream]) + begin;
  const T* const grad = static_cast<const T*>(streams[kGradStream]) + begin;
  T* states[kOptimizerSlots] = {};
  each_slot<kMask>([&](auto slot) DLK_BODY {
    states[slot.index] = static_cast<T*>(streams[kFirstSlotStream + slot.index]) + begin;
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

// The streams of the rule for a block of an array, in the type of computation.
template <class C> struct RuleBlocks {
  alignas(kVecBytes) C buffers[kAverageStream][kOptimizerBlock];
  void* pointers[kOptimizerStreams] = {};

  DLK_BLOCK void open(const OptimizerExtras& extras, const OptimizerArray& array,
                      const OptimizerLayout& layout, int64_t first, int64_t size,
                      int end_stream = kAverageStream) {
    for (int stream = 0; stream < end_stream; ++stream) {
      if (!array.streams[stream])
        continue;
      pointers[stream] = buffers[stream];
      if (stream == kGradStream && extras.scales)
        scale_gradient<C>(extras, array, layout, first, size, buffers[stream]);
      else if (is_in_place<C>(layout, stream))
        pointers[stream] = stream_address(array, layout, stream, first);
      else
        read_block<C>(array, layout, stream, first, size, buffers[stream]);
    }
  }

  DLK_BLOCK void close(const OptimizerArray& array, const OptimizerLayout& layout,
                       const OptimizerSetting& setting, int64_t first, int64_t size,
                       int end_stream = kAverageStream) const {
    for (int stream = 0; stream < end_stream; ++stream)
      if (stream != kGradStream && pointers[stream] == buffers[stream])
        write_block<C>(buffers[stream], array, layout, setting, stream, first, size);
  }
};

// Whether there is nothing but the rule, and all that it reads is of one dtype and side by side.
DLK_INLINE bool is_bare(const OptimizerExtras& extras, const OptimizerArray& array,
                        const OptimizerLayout& layout) {
  return layout.plain && !extras.scales && !extras.zero_grads && !array.streams[kAverageStream];
}

template <class Rule> constexpr auto signed_slots(int) -> decltype(Rule::kSignedSlots) {
  return Rule::kSignedSlots;
}
template <class> constexpr int signed_slots(...) {
  return -1;
}

// A block whose states are all codes: they are numbers in registers, and once more in L1 while
// their scale is not known. Through blocks like any other format a step took a third longer.
template <template <class> class Rule, int kMask>
DLK_BLOCK void update_codes(const double* numbers, const OptimizerArray& array,
                            RuleBlocks<float>& blocks, int64_t first, int64_t size) {
  constexpr int signs = signed_slots<Rule<float>>(0);
  const Rule<float> rule(numbers);
  float* const param = static_cast<float*>(blocks.pointers[kParamStream]);
  const float* const grad = static_cast<const float*>(blocks.pointers[kGradStream]);
  uint8_t* codes[kOptimizerSlots];
  float* scales[kOptimizerSlots];
  Vec<float> scale[kOptimizerSlots];
  IntVec<float> largest[kOptimizerSlots];
  each_slot<kMask>([&](auto slot) DLK_BODY {
    constexpr int stream = kFirstSlotStream + slot.index;
    codes[slot.index] = static_cast<uint8_t*>(array.streams[stream]) + first;
    scales[slot.index] = static_cast<float*>(array.aux[stream]) + first / kScaleBlock;
    scale[slot.index] = Vec<float>(*scales[slot.index]);
    largest[slot.index] = IntVec<float>(0);
    for (int line = 0; line < kOptimizerBlock; line += 64)
      __builtin_prefetch(codes[slot.index] + 4 * kOptimizerBlock + line);
  });
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    fetch_ahead(param + i);
    fetch_ahead(grad + i);
    Vec<float> p = load_lanes(param + i, lanes), s[kOptimizerSlots];
    each_slot<kMask>([&](auto slot) DLK_BODY {
      using Map = DynamicMap<(signs >> slot.index & 1) != 0>;
      s[slot.index] = Map::values(load_codes(codes[slot.index] + i, lanes)) * scale[slot.index];
    });
    rule.template update<kMask>(p, load_lanes(grad + i, lanes), s);
    each_slot<kMask>([&](auto slot) DLK_BODY {
      store_lanes(blocks.buffers[kFirstSlotStream + slot.index] + i, s[slot.index], lanes);
      largest[slot.index] = larger_magnitude(largest[slot.index], zero_beyond(s[slot.index], lanes));
    });
    store_lanes(param + i, p, lanes);
  });
  each_slot<kMask>([&](auto slot) DLK_BODY {
    *scales[slot.index] = encode_block<(signs >> slot.index & 1) != 0>(
        blocks.buffers[kFirstSlotStream + slot.index], size, largest[slot.index],
        codes[slot.index]);
  });
}

template <int kMask> DLK_INLINE bool has_only_codes(const OptimizerLayout& layout) {
  bool all = kMask != 0;
  each_slot<kMask>([&](auto slot) DLK_BODY {
    const StreamFormat format = layout.formats[kFirstSlotStream + slot.index];
    all = all && (format == StreamFormat::signed_codes || format == StreamFormat::unsigned_codes);
  });
  return all;
}

// A piece with gaps, of several dtypes or formats, or with something besides the rule.
template <template <class> class Rule, int kMask, class C>
DLK_BLOCK void update_blocks(const OptimizerExtras& extras, const OptimizerArray& array,
                             const OptimizerLayout& layout, const OptimizerSetting& setting,
                             int64_t begin, int64_t end) {
  RuleBlocks<C> blocks;
  [[maybe_unused]] const bool only_codes = has_only_codes<kMask>(layout);
  for (int64_t first = begin; first < end; first += kOptimizerBlock) {
    const int64_t size = end - first < kOptimizerBlock ? end - first : kOptimizerBlock;
    if constexpr (sizeof(C) == sizeof(float) && signed_slots<Rule<C>>(0) >= 0) {
      if (only_codes) {
        blocks.open(extras, array, layout, first, size, kFirstSlotStream);
        update_codes<Rule, kMask>(setting.numbers, array, blocks, first, size);
        blocks.close(array, layout, setting, first, size, kFirstSlotStream);
        finish_block(extras, array, layout, first, size);
        continue;
      }
    }
    blocks.open(extras, array, layout, first, size);
    update_streams<Rule, kMask, C>(setting.numbers, blocks.pointers, 0, size);
    blocks.close(array, layout, setting, first, size);
    finish_block(extras, array, layout, first, size);
  }
}

// A piece of an array whose parameter stays as it is.
DLK_INLINE void average_piece(const OptimizerExtras& extras, const OptimizerArray& array,
                              const OptimizerLayout& layout, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += kOptimizerBlock)
    finish_block(extras, array, layout, first,
                 end - first < kOptimizerBlock ? end - first : kOptimizerBlock);
}

template <template <class> class Rule, int kMask>
DLK_BLOCK void update_piece(const OptimizerArgs& args, const OptimizerArray& array, int64_t begin,
                            int64_t end) {
  const OptimizerLayout& layout = args.layouts[array.layout];
  const OptimizerSetting& setting = args.settings[array.setting];
  const OptimizerExtras& extras = args.extras;
  if (is_bare(extras, array, layout))
    return with_storage_type(layout.dtypes[kParamStream], [&](auto type) DLK_BODY {
      update_streams<Rule, kMask, decltype(type)>(setting.numbers, array.streams, begin, end - begin);
    });
  bool has_double = false;
  for (int stream = 0; stream < kAverageStream; ++stream)
    has_double |= array.streams[stream] && layout.dtypes[stream] == DType::float64;
  if (has_double)
    update_blocks<Rule, kMask, double>(extras, array, layout, setting, begin, end);
  else
    update_blocks<Rule, kMask, float>(extras, array, layout, setting, begin, end);
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
      if (!array.streams[kGradStream]) {
        average_piece(args.extras, array, args.layouts[array.layout], chunk.begin, chunk.end);
        continue;
      }
      int mask = 0;
      for (int slot = 0; slot < kOptimizerSlots; ++slot)
        mask |= (array.streams[kFirstSlotStream + slot] != nullptr) << slot;
      (void)((mask == kMasks &&
              (update_piece<Rule, kMasks>(args, array, chunk.begin, chunk.end), true)) ||
             ...);
    }
  });
}

} // namespace dlk::DLK_ISA
