// What the activations' forward and backward share: masks of bits, and the functor by its index.
#pragma once

#include "kernels/activations/args.h"
#include "kernels/activations/functors.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {

// A chunk starts on a whole byte of the mask and a whole vector of every type.
static_assert(kMapChunkElems % 64 == 0);

// Sixteen (or eight) mask bits of the vector at element `index`.
template <class T> DLK_INLINE void store_mask(uint8_t* mask, int64_t index, IntVec<T> lanes) {
  const uint32_t bits = mask_bits(lanes);
  mask[index / 8] = uint8_t(bits);
  if constexpr (Vec<T>::kLanes == 16)
    mask[index / 8 + 1] = uint8_t(bits >> 8);
}
template <class T> DLK_INLINE IntVec<T> load_mask(const uint8_t* mask, int64_t index) {
  uint32_t bits = mask[index / 8];
  if constexpr (Vec<T>::kLanes == 16)
    bits |= uint32_t(mask[index / 8 + 1]) << 8;
  return mask_from_bits<T>(bits);
}

template <Saved kValue> struct SavedConstant {
  static constexpr Saved value = kValue;
};

// Calls f with the functor that `args.activation` names, for the storage type T, and what it saves.
template <class T, class F> void with_activation(const ActivationArgs& args, F f) {
  int32_t index = 0;
#define DLK_ACTIVATION(name, Functor, saved)                                                       \
  if (args.activation == index++)                                                                  \
    return f(Functor<Compute<T>>(args.parameters), SavedConstant<Saved::saved>());
  DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
}

} // namespace dlk::DLK_ISA
