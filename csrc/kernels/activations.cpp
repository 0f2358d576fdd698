// Elementwise activations, forward and backward, over arrays without gaps: one loop for all of
// them, the mathematics in activations.h.
//
// Bytes per float32 element: forward 8 (4 in + 4 out), + 1/8 where a mask is saved; backward 12, or
// 8 1/8 with a mask instead of the input. Outputs larger than the cache are streamed past it (an
// ordinary store reads the line first). In place: 8, nothing else touched.
// Error: the functor's own, at any position, length and alignment.
#include "kernels/activations.h"
#include "simd/loops.h"

namespace dlk::DLK_ISA {
namespace {

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

template <class T, Saved kSaved, class Activation>
void forward(const ActivationArgs& args, const Activation activation) {
  using C = Compute<T>;
  parallel_elements(args.size, [&](int64_t begin, int64_t end) {
    const T* x = static_cast<const T*>(args.input) + begin;
    T* y = static_cast<T*>(args.output) + begin;
    if constexpr (kSaved == Saved::mask) {
      if (args.mask) {
        for_each_vec_masked(y, end - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
          const Vec<C> value = load_lanes(x + i, lanes);
          store_mask<C>(args.mask, begin + i, activation.mask(value));
          store_lanes(y + i, activation.forward(value), lanes);
        });
        return;
      }
    }
    for_each_vec_to(y, end - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      store_lanes(y + i, activation.forward(load_lanes(x + i, lanes)), lanes);
    });
  });
}

template <class T, Saved kSaved, class Activation>
void backward(const ActivationArgs& args, const Activation activation) {
  using C = Compute<T>;
  parallel_elements(args.size, [&](int64_t begin, int64_t end) {
    const T* g = static_cast<const T*>(args.grad_output) + begin;
    const T* saved = static_cast<const T*>(args.saved) + begin;
    T* dx = static_cast<T*>(args.output) + begin;
    if constexpr (kSaved == Saved::mask) {
      if (args.mask) {
        for_each_vec_masked(dx, end - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
          const IntVec<C> passes = load_mask<C>(args.mask, begin + i);
          store_lanes(dx + i, activation.backward(load_lanes(g + i, lanes), passes), lanes);
        });
        return;
      }
    }
    for_each_vec_to(dx, end - begin, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> grad = load_lanes(g + i, lanes), value = load_lanes(saved + i, lanes);
      if constexpr (kSaved == Saved::mask)
        store_lanes(dx + i, activation.backward(grad, activation.mask(value)), lanes);
      else
        store_lanes(dx + i, activation.backward(grad, value), lanes);
    });
  });
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

} // namespace

void activation(ActivationArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    with_activation<T>(
        args, [&](auto functor, auto saved) { forward<T, decltype(saved)::value>(args, functor); });
  });
}

void activation_backward(ActivationArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    with_activation<T>(args, [&](auto functor, auto saved) {
      backward<T, decltype(saved)::value>(args, functor);
    });
  });
}

} // namespace dlk::DLK_ISA
