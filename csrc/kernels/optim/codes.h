// The streams of an optimizer's rule a block at a time, and the step of a block whose states are
// all codes.
#pragma once

#include "kernels/optim/extras.h"

namespace dlk::DLK_ISA {

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
  });
  for_each_vec<float>(size, [&](int64_t i, auto lanes) DLK_BODY {
    Vec<float> p = load_lanes(param + i, lanes), s[kOptimizerSlots];
    each_slot<kMask>([&](auto slot) DLK_BODY {
      using Map = DynamicMap<(signs >> slot.index & 1) != 0>;
      s[slot.index] = Map::values(load_codes(codes[slot.index] + i, lanes)) * scale[slot.index];
    });
    rule.template update<kMask>(p, load_lanes(grad + i, lanes), s);
    each_slot<kMask>([&](auto slot) DLK_BODY {
      store_lanes(blocks.buffers[kFirstSlotStream + slot.index] + i, s[slot.index], lanes);
      largest[slot.index] =
          larger_magnitude(largest[slot.index], zero_beyond(s[slot.index], lanes));
    });
    store_lanes(param + i, p, lanes);
  });
  each_slot<kMask>([&](auto slot) DLK_BODY {
    *scales[slot.index] =
        encode_block<(signs >> slot.index & 1) != 0>(blocks.buffers[kFirstSlotStream + slot.index],
                                                     size, largest[slot.index], codes[slot.index]);
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

} // namespace dlk::DLK_ISA
