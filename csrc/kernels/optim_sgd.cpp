// Stochastic gradient descent with momentum, over any number of arrays in one parallel region.
//
//   g = (maximize ? -grad : grad) + weight_decay * p
//   b = first step ? g : momentum * b + (1 - dampening) * g
//   p = p - lr * (nesterov ? g + momentum * b : b)          (b = g without momentum)
//
// Every "+ a * x" is one fma, which is what torch's loop over add_(alpha=) does: float32 and
// float64 results are bit-equal to it on AVX2 and AVX-512. Half types compute in float32 and round
// p and b once each. Note the learning rate stays outside b, as in torch, not inside as in
// Sutskever et al. 2013.
//
// Bytes per float32 element: 12, with momentum 20; in place, so ordinary stores. A table of
// (array, chunk) pieces of 16384 elements is shared out, so 5000 small arrays cost one region.
// Reference: torch.optim.SGD.
#include "simd/loops.h"

namespace dlk::DLK_ISA {
namespace {

// The hardware's prefetcher keeps each of three streams too short a way ahead: 8 % of a step over
// 50 M elements.
template <class T> DLK_INLINE void fetch_ahead(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 2048);
}

// The start of an array that is two ahead: where thousands are small, each would wait for its own.
DLK_INLINE void fetch_first_lines(const SgdArray& array) {
  for (int64_t byte = 0; byte < 256; byte += 64) {
    __builtin_prefetch(static_cast<const char*>(array.param) + byte);
    __builtin_prefetch(static_cast<const char*>(array.grad) + byte);
    __builtin_prefetch(static_cast<const char*>(array.momentum_buffer) + byte);
  }
}

template <class C> struct Step {
  const Vec<C> negative_lr, momentum, keep, weight_decay;
  const bool has_decay, nesterov, maximize;

  explicit Step(const SgdGroup& group)
      : negative_lr(C(-group.lr)), momentum(C(group.momentum)), keep(C(1 - group.dampening)),
        weight_decay(C(group.weight_decay)), has_decay(group.weight_decay != 0),
        nesterov(group.nesterov), maximize(group.maximize) {}

  template <class T, class Lanes>
  DLK_INLINE Vec<C> gradient(const T* grad, Vec<C> p, Lanes lanes) const {
    Vec<C> g = load_lanes(grad, lanes);
    if (maximize)
      g = -g;
    return has_decay ? fma(p, weight_decay, g) : g;
  }
};

// The whole of one piece whose arrays lie side by side.
template <class T>
DLK_INLINE void update(const Step<Compute<T>>& step, T* param, const T* grad, T* buffer,
                       bool first_step, int64_t size) {
  using C = Compute<T>;
  if (!buffer) {
    for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
      fetch_ahead(param + i);
      fetch_ahead(grad + i);
      const Vec<C> p = load_lanes(param + i, lanes);
      store_lanes(param + i, fma(step.gradient(grad + i, p, lanes), step.negative_lr, p), lanes);
    });
    return;
  }
  for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
    fetch_ahead(param + i);
    fetch_ahead(grad + i);
    fetch_ahead(buffer + i);
    const Vec<C> p = load_lanes(param + i, lanes);
    const Vec<C> g = step.gradient(grad + i, p, lanes);
    const Vec<C> b =
        first_step ? g : fma(g, step.keep, load_lanes(buffer + i, lanes) * step.momentum);
    store_lanes(buffer + i, b, lanes);
    const Vec<C> direction = step.nesterov ? fma(b, step.momentum, g) : b;
    store_lanes(param + i, fma(direction, step.negative_lr, p), lanes);
  });
}

// A piece with gaps: gathered into small blocks, updated by the same code, scattered back.
template <class T>
void update_strided(const Step<Compute<T>>& step, const SgdArray& array, int64_t begin,
                    int64_t end) {
  constexpr int64_t kBlock = 256;
  T param_block[kBlock], grad_block[kBlock], buffer_block[kBlock];
  T* param = static_cast<T*>(array.param);
  const T* grad = static_cast<const T*>(array.grad);
  T* buffer = static_cast<T*>(array.momentum_buffer);
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t size = end - first < kBlock ? end - first : kBlock;
    for (int64_t i = 0; i < size; ++i) {
      param_block[i] = param[(first + i) * array.param_stride];
      grad_block[i] = grad[(first + i) * array.grad_stride];
      if (buffer)
        buffer_block[i] = buffer[(first + i) * array.buffer_stride];
    }
    update(step, param_block, grad_block, buffer ? buffer_block : nullptr, array.first_step, size);
    for (int64_t i = 0; i < size; ++i) {
      param[(first + i) * array.param_stride] = param_block[i];
      if (buffer)
        buffer[(first + i) * array.buffer_stride] = buffer_block[i];
    }
  }
}

template <class T> void run(const SgdArgs& args) {
  parallel_chunks(args.chunk_count, args.total_elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const OptimizerChunk& chunk = args.chunks[index];
      const SgdArray& array = args.arrays[chunk.array];
      if (index + 2 < args.chunk_count)
        fetch_first_lines(args.arrays[args.chunks[index + 2].array]);
      const Step<Compute<T>> step(args.groups[array.group]);
      if (array.param_stride == 1 && array.grad_stride == 1 && array.buffer_stride == 1)
        update(step, static_cast<T*>(array.param) + chunk.begin,
               static_cast<const T*>(array.grad) + chunk.begin,
               array.momentum_buffer ? static_cast<T*>(array.momentum_buffer) + chunk.begin
                                     : nullptr,
               array.first_step, chunk.end - chunk.begin);
      else
        update_strided<T>(step, array, chunk.begin, chunk.end);
    }
  });
}

} // namespace

void sgd(SgdArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { run<decltype(type)>(args); });
}

} // namespace dlk::DLK_ISA
