// softmax and log_softmax where positions lie side by side and classes are strided (softmax.cpp has
// the formulas and the other case): tiles of 64 positions, each read again from L2.
//
// Bytes per float32 element: forward 8, backward 12. Error: as there, sums in double.
// Reference: torch.softmax, torch.log_softmax.
#include "kernels/class_rows.h"

namespace dlk::DLK_ISA {
namespace {

template <class T> void forward_tile(const SoftmaxArgs& args, const T* x, T* y, int64_t positions) {
  using C = Compute<T>;
  alignas(kVecBytes) C reference[kPlaneTile], factor[kPlaneTile];
  double sum[kPlaneTile];
  plane_exp_sums(x, args.input.class_stride, args.classes, positions, 0, reference, sum);
  for (int64_t s = 0; s < positions; ++s)
    factor[s] = C(args.logarithm ? log_scalar(sum[s]) : 1 / sum[s]);
  for (int64_t c = 0; c < args.classes; ++c)
    for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
      const Vec<C> shifted =
          load_lanes(x + c * args.input.class_stride + s, lanes) - load(reference + s);
      const Vec<C> value =
          args.logarithm ? shifted - load(factor + s) : exp_nonpositive(shifted) * load(factor + s);
      store_lanes(y + c * args.output.class_stride + s, value, lanes);
    });
}

template <class T>
void backward_tile(const SoftmaxArgs& args, const T* y, const T* g, T* dx, int64_t positions) {
  using C = Compute<T>;
  alignas(kVecBytes) C total[kPlaneTile], part[Vec<C>::kLanes];
  double sum[kPlaneTile] = {};
  const auto terms = [&](int64_t c, int64_t s, auto lanes, Vec<C>& grad, Vec<C>& out) DLK_BODY {
    grad = load_lanes(g + c * args.grad_output.class_stride + s, lanes);
    out = load_lanes(y + c * args.input.class_stride + s, lanes);
  };
  for (int64_t c = 0; c < args.classes; ++c)
    for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
      Vec<C> grad, out;
      terms(c, s, lanes, grad, out);
      store(part, args.logarithm ? grad : grad * out);
      for (int64_t lane = 0; lane < Vec<C>::kLanes; ++lane)
        sum[s + lane] += double(part[lane]);
    });
  for (int64_t s = 0; s < kPlaneTile; ++s)
    total[s] = C(sum[s]);
  for (int64_t c = 0; c < args.classes; ++c)
    for_each_vec<C>(positions, [&](int64_t s, auto lanes) DLK_BODY {
      Vec<C> grad, out;
      terms(c, s, lanes, grad, out);
      const Vec<C> sums = load(total + s);
      store_lanes(dx + c * args.output.class_stride + s,
                  args.logarithm ? fma(-exp(out), sums, grad) : out * (grad - sums), lanes);
    });
}

template <class T, bool kBackward> void tiles(const SoftmaxArgs& args) {
  const int64_t tiles_per_batch = chunk_count(args.positions, kPlaneTile);
  parallel_chunks(args.batches * tiles_per_batch, args.batches * args.positions * args.classes,
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t tile = begin; tile < end; ++tile) {
                      const int64_t batch = tile / tiles_per_batch,
                                    first = tile % tiles_per_batch * kPlaneTile;
                      const int64_t left = args.positions - first;
                      const int64_t positions = left < kPlaneTile ? left : kPlaneTile;
                      const T* x = classes_at<const T>(args.input, batch, first);
                      T* y = classes_at<T>(args.output, batch, first);
                      if constexpr (kBackward)
                        backward_tile(args, x, classes_at<const T>(args.grad_output, batch, first),
                                      y, positions);
                      else
                        forward_tile(args, x, y, positions);
                    }
                  });
}

} // namespace

void softmax_planes(SoftmaxArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { tiles<decltype(type), false>(args); });
}

void softmax_planes_backward(SoftmaxArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { tiles<decltype(type), true>(args); });
}

} // namespace dlk::DLK_ISA
