// The gradients of the elementwise activations: one loop for all of them, the mathematics in
// functors.h.
//
// Bytes per float32 element: 12, or 8 1/8 with a mask instead of the input or output. Outputs
// larger than the cache are streamed past it. Error: the functor's own, at any position, length and
// alignment.
#include "kernels/activations/activation_loops.h"

namespace dlk::DLK_ISA {
namespace {

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

} // namespace

void activation_backward(ActivationArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    with_activation<T>(args, [&](auto functor, auto saved) {
      backward<T, decltype(saved)::value>(args, functor);
    });
  });
}

} // namespace dlk::DLK_ISA
