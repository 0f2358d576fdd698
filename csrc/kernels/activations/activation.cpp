// Elementwise activations, forward, over arrays without gaps: one loop for all of them, the
// mathematics in functors.h.
//
// Bytes per float32 element: 8 (4 in + 4 out), + 1/8 where a mask is saved. Outputs larger than the
// cache are streamed past it (an ordinary store reads the line first). In place: 8, nothing else
// touched. Error: the functor's own, at any position, length and alignment.
#include "kernels/activations/activation_loops.h"

namespace dlk::DLK_ISA {
namespace {

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

} // namespace

void activation(ActivationArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    with_activation<T>(
        args, [&](auto functor, auto saved) { forward<T, decltype(saved)::value>(args, functor); });
  });
}

} // namespace dlk::DLK_ISA
