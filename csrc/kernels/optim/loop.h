// The loop that every optimizer shares: (array, chunk) pieces of all arrays in one parallel region,
// tails, strides, mixtures of dtypes and formats. An optimizer is a functor, in a file of its own
// under rules/:
//
//   template <class C> struct Rule {         // C: float or double, what is computed in
//     // Only if the states may be codes. Bit k: state k has a sign.
//     static constexpr int kSignedSlots = ...;
//     // From the numbers of its setting.
//     explicit Rule(const double* numbers);
//     // One vector, in registers. Bit k of kMask: state k is kept.
//     template <int kMask> void update(Vec<C>& p, Vec<C> g, Vec<C>* s) const;
//   };
//   void rule(OptimizerArgs& args) noexcept { run_optimizer<Rule, masks...>(args); }
//
// Where all streams are of one dtype and contiguous, the rule reads and writes them directly. Else
// it works on one block at a time: a stream that is contiguous and of the type of computation is
// used where it is, any other is converted into a buffer in L1 and back, each element rounded once.
// What a step does besides its rule (extras.h) is done to the block while it is there. Where one of
// the streams is float64, float64 is the type of computation.
#pragma once

#include "kernels/optim/codes.h"

namespace dlk::DLK_ISA {

// The start of an array that is two ahead: where thousands are small, each would wait for its own.
DLK_INLINE void fetch_first_lines(const OptimizerArray& array) {
  for (const void* stream : array.streams)
    for (int64_t byte = 0; stream && byte < 256; byte += 64)
      __builtin_prefetch(static_cast<const char*>(stream) + byte);
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

// One number where x is above zero, another where it is below, a third elsewhere.
template <class C>
DLK_INLINE Vec<C> by_sign(Vec<C> x, Vec<C> above, Vec<C> below, Vec<C> elsewhere) {
  return select(x > Vec<C>(0), above, select(x < Vec<C>(0), below, elsewhere));
}

// A rule with overwrites() does not read its first state where that is true.
template <class Rule> constexpr auto may_overwrite(int) -> decltype(&Rule::overwrites, true) {
  return true;
}
template <class> constexpr bool may_overwrite(...) {
  return false;
}

// `size` elements whose streams are of one type and side by side. kPastCache: the first state is
// only written, past the cache, which spares reading it.
template <template <class> class Rule, int kMask, class T, bool kPastCache = false>
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
  const auto step = [&](int64_t i, auto lanes, auto lanes_of_first) DLK_BODY {
    Vec<C> p = load_lanes(param + i, lanes), s[kOptimizerSlots];
    each_slot<kMask>([&](auto slot) DLK_BODY {
      s[slot.index] =
          kPastCache && slot.index == 0 ? Vec<C>(0) : load_lanes(states[slot.index] + i, lanes);
    });
    rule.template update<kMask>(p, load_lanes(grad + i, lanes), s);
    each_slot<kMask>([&](auto slot) DLK_BODY {
      if constexpr (slot.index == 0)
        store_lanes(states[0] + i, s[0], lanes_of_first);
      else
        store_lanes(states[slot.index] + i, s[slot.index], lanes);
    });
    store_lanes(param + i, p, lanes);
  };
  if constexpr (kPastCache)
    for_each_vec_to(states[0], size, true,
                    [&](int64_t i, auto lanes) DLK_BODY { step(i, in_cache(lanes), lanes); });
  else
    for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY { step(i, lanes, lanes); });
}

// Whether there is nothing but the rule, and all that it reads is of one dtype and side by side.
DLK_INLINE bool is_bare(const OptimizerExtras& extras, const OptimizerArray& array,
                        const OptimizerLayout& layout) {
  return layout.plain && !extras.scales && !extras.zero_grads && !array.streams[kAverageStream];
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
      using T = decltype(type);
      if constexpr (kMask & 1 && may_overwrite<Rule<Compute<T>>>(0))
        if (args.past_cache && Rule<Compute<T>>(setting.numbers).overwrites())
          return update_streams<Rule, kMask, T, true>(setting.numbers, array.streams, begin,
                                                      end - begin);
      update_streams<Rule, kMask, T>(setting.numbers, array.streams, begin, end - begin);
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
