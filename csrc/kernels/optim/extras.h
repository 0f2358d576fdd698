// What an optimizer's step does to a block around its rule, whatever the rule: the gradient's
// factors before it; the parameter's moving average and the gradient's zero after it.
#pragma once

#include "kernels/optim/streams.h"

namespace dlk::DLK_ISA {

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

template <class T> DLK_INLINE Vec<Compute<T>> rounded_to(Vec<Compute<T>> v) {
  if constexpr (kIsHalf<T>) {
    alignas(32) T lanes[Vec<float>::kLanes];
    store(lanes, v);
    return load(lanes);
  }
  return v;
}

// The factors in the gradient's own dtype, as `grad.mul_(factor)` has them.
template <class T> struct GradientFactors {
  using Wide = Compute<T>;
  const Vec<Wide> unscale, clip;

  explicit GradientFactors(const OptimizerExtras& extras)
      : unscale(Wide(extras.unscale)), clip(Wide(extras.clip)) {}

  DLK_INLINE Vec<Wide> unscaled(Vec<Wide> g) const { return rounded_to<T>(g * unscale); }
  DLK_INLINE Vec<Wide> operator()(Vec<Wide> g) const { return rounded_to<T>(unscaled(g) * clip); }
};

// The gradient times its factors: to `block`, unless that is nullptr, and with write_back also to
// where it was.
template <class C>
DLK_BLOCK void scale_gradient(const OptimizerExtras& extras, const OptimizerArray& array,
                              const OptimizerLayout& layout, int64_t first, int64_t size,
                              C* block) {
  with_storage_type(layout.dtypes[kGradStream], [&](auto type) DLK_BODY {
    using T = decltype(type);
    using Wide = Compute<T>;
    const GradientFactors<T> factors(extras);
    const int64_t stride = layout.strides[kGradStream];
    T gathered[kOptimizerBlock];
    void* address = stream_address(array, layout, kGradStream, first);
    T* const grad = static_cast<T*>(address);
    const T* source = side_by_side<T>(grad, stride, size, gathered);
    const bool writes = extras.write_back;
    T* const rounded = writes && stride == 1 ? grad : gathered;
    alignas(kVecBytes) Wide wide[kOptimizerBlock];
    for_each_vec<Wide>(size, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<Wide> g = factors(load_lanes(source + i, lanes));
      if (writes)
        store_lanes(rounded + i, g, lanes);
      if constexpr (sizeof(Wide) != sizeof(C))
        store_lanes(wide + i, g, lanes);
      else if (block)
        store_lanes(block + i, g, lanes);
    });
    if constexpr (sizeof(Wide) != sizeof(C))
      for (int64_t i = 0; block && i < size; ++i)
        block[i] = C(wide[i]);
    if (writes && rounded != grad)
      scatter(rounded, grad, stride, size);
  });
}

DLK_INLINE void zero_gradient(const OptimizerArray& array, const OptimizerLayout& layout,
                              int64_t first, int64_t size) {
  with_storage_type(layout.dtypes[kGradStream], [&](auto type) DLK_BODY {
    using T = decltype(type);
    void* address = stream_address(array, layout, kGradStream, first);
    T* const grad = static_cast<T*>(address);
    const int64_t stride = layout.strides[kGradStream];
    for (int64_t i = 0; i < size; ++i)
      grad[i * stride] = T{};
  });
}

// Computes in the wider of the parameter's and the average's dtype, with the parameter as it is
// stored: the same as averaging it after the step.
template <class C>
DLK_BLOCK void update_average(const OptimizerExtras& extras, const OptimizerArray& array,
                              const OptimizerLayout& layout, int64_t first, int64_t size) {
  alignas(kVecBytes) C buffers[2][kOptimizerBlock];
  const auto block = [&](int stream, C* buffer) DLK_BODY {
    if (is_in_place<C>(layout, stream)) {
      void* address = stream_address(array, layout, stream, first);
      return static_cast<C*>(address);
    }
    read_block(array, layout, stream, first, size, buffer);
    return buffer;
  };
  const C* const param = block(kParamStream, buffers[0]);
  C* const average = block(kAverageStream, buffers[1]);
  const Lerp<C> lerp(extras.average_weight);
  const bool copies = extras.average_copies;
  for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
    const Vec<C> p = load_lanes(param + i, lanes);
    store_lanes(average + i, copies ? p : lerp(load_lanes(average + i, lanes), p), lanes);
  });
  if (average == buffers[1])
    write_plain_block(average, array, layout, kAverageStream, first, size);
}

// After the rule.
DLK_INLINE void finish_block(const OptimizerExtras& extras, const OptimizerArray& array,
                             const OptimizerLayout& layout, int64_t first, int64_t size) {
  if (array.streams[kAverageStream]) {
    if (layout.dtypes[kParamStream] == DType::float64 ||
        layout.dtypes[kAverageStream] == DType::float64)
      update_average<double>(extras, array, layout, first, size);
    else
      update_average<float>(extras, array, layout, first, size);
  }
  if (extras.zero_grads && array.streams[kGradStream])
    zero_gradient(array, layout, first, size);
}

} // namespace dlk::DLK_ISA
