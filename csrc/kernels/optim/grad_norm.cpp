// The pass over the gradients before a step that clips them or checks them for infinities, and the
// pass that replaces a skipped step.
//
//   grad_norm: for each piece the sum of u(g)^2, and NaN where an element of g is not finite
//   finish_gradients: g = c(u(g)) with write_back; then g = 0 with zero_grads
//
// u is the product with the inverse of the loss scale, c with the clip coefficient, each rounded to
// the gradient's dtype. Squares and sums are float64, in two times eight lanes that are combined in
// a fixed order: the same bits for any number of threads and on every level (the squares of float32
// and half numbers are exact), and as a float32 norm within one unit in the last place however many
// elements there are. Squares of float64 numbers beyond 1e154 overflow, as in torch.
//
// Bytes per float32 element: 4; finish_gradients 8. Sums in float32 would be less arithmetic and no
// faster: the pass waits for memory.
// Reference: torch.nn.utils.clip_grad_norm_, torch.amp.GradScaler.unscale_.
#include "kernels/optim/extras.h"

namespace dlk::DLK_ISA {
namespace {

template <class T> struct PieceSums {
  using Wide = Compute<T>;
  const GradientFactors<T> factors;
  const bool unscales;
  Vec<double> low = Vec<double>(0), high = Vec<double>(0);
  Vec<Wide> probe = Vec<Wide>(0);

  explicit PieceSums(const OptimizerExtras& extras)
      : factors(extras), unscales(extras.unscale != 1) {}

  DLK_INLINE void add(const T* grad, int64_t size) {
    const Vec<Wide> zero(0);
    for_each_vec<Wide>(size, [&](int64_t i, auto lanes) DLK_BODY {
      Vec<Wide> g = load_lanes(grad + i, lanes);
      probe = fma(g, zero, probe);
      if (unscales)
        g = factors.unscaled(g);
      if constexpr (sizeof(Wide) == 8) {
        low = fma(g, g, low);
      } else {
        const Vec<double> front = widen_low(g), back = widen_high(g);
        low = fma(front, front, low);
        high = fma(back, back, high);
      }
    });
  }
};

template <class Body> DLK_INLINE void each_block(const OptimizerChunk& chunk, Body&& body) {
  for (int64_t first = chunk.begin; first < chunk.end; first += kOptimizerBlock)
    body(first, chunk.end - first < kOptimizerBlock ? chunk.end - first : kOptimizerBlock);
}

DLK_BLOCK GradientSums gradient_sums(const OptimizerExtras& extras, const OptimizerArray& array,
                                     const OptimizerLayout& layout, const OptimizerChunk& chunk) {
  GradientSums result{0, 0};
  const int64_t stride = layout.strides[kGradStream];
  with_storage_type(layout.dtypes[kGradStream], [&](auto type) DLK_BODY {
    using T = decltype(type);
    PieceSums<T> sums(extras);
    const auto address = [&](int64_t first) DLK_BODY {
      const void* elements = stream_address(array, layout, kGradStream, first);
      return static_cast<const T*>(elements);
    };
    if (stride == 1)
      sums.add(address(chunk.begin), chunk.end - chunk.begin);
    else
      each_block(chunk, [&](int64_t first, int64_t size) DLK_BODY {
        T gathered[kOptimizerBlock];
        sums.add(side_by_side(address(first), stride, size, gathered), size);
      });
    result = {sum_lanes(sums.low + sums.high), double(sum_lanes(sums.probe))};
  });
  return result;
}

// function(index of the chunk, its array, its layout) for the pieces that have a gradient
template <class Function>
DLK_INLINE void each_gradient(const OptimizerArgs& args, Function function) {
  parallel_chunks(args.chunk_count, args.total_elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const OptimizerArray& array = args.arrays[args.chunks[index].array];
      if (array.streams[kGradStream])
        function(index, array, args.layouts[array.layout]);
    }
  });
}

} // namespace

void grad_norm(OptimizerArgs& args) noexcept {
  each_gradient(args,
                [&](int64_t index, const OptimizerArray& array, const OptimizerLayout& layout) {
                  args.sums[index] = gradient_sums(args.extras, array, layout, args.chunks[index]);
                });
}

void finish_gradients(OptimizerArgs& args) noexcept {
  const OptimizerExtras& extras = args.extras;
  each_gradient(args,
                [&](int64_t index, const OptimizerArray& array, const OptimizerLayout& layout) {
                  each_block(args.chunks[index], [&](int64_t first, int64_t size) DLK_BODY {
                    if (extras.write_back)
                      scale_gradient<float>(extras, array, layout, first, size, nullptr);
                    if (extras.zero_grads)
                      zero_gradient(array, layout, first, size);
                  });
                });
}

} // namespace dlk::DLK_ISA
