// y = activation(x + bias) * (kept ? 1 / (1 - p) : 0), x in rows, bias along them: the middle of a
// transformer's feed-forward layer in one pass.
//
//   backward: dx = activation'(x + bias) * (grad * factor); dbias = the sum of dx's rows
//
// What is dropped is 0 in both, whatever it was.
//
// Backward adds the bias and draws the mask again, so x is all that is kept. Blocks of 1024
// elements go through a buffer in L1 in the computing type, so that an activation is compiled once
// for float and once for double; with each step in registers instead, twenty activations would be
// compiled for four types each, for no byte less of memory. Half types are rounded once, at the
// end.
//
// Bytes per float32 element: 8 forward; 12 backward.
// Error: the activation's own at the rounded sum, and 1 eps; dbias is summed in float64.
// Reference: torch.dropout(activation(x + bias)).
#include "kernels/activations/functors.h"
#include "kernels/dropout/keep_mask.h"

namespace dlk::DLK_ISA {
namespace {

constexpr int64_t kBlockElems = 1024;

template <class C> using Block = C[kBlockElems];
template <class C> using Forward = void (*)(C* values, int64_t size, const double* parameters);
template <class C>
using Backward = void (*)(C* grad, const C* inputs, int64_t size, const double* parameters);

// Over whole vectors: the memory up to a multiple of a vector exists, and is not used.
template <class C, class Activation>
DLK_BLOCK void forward_block(C* values, int64_t size, const double* parameters) {
  const Activation activation(parameters);
  for (int64_t i = 0; i < size; i += Vec<C>::kLanes)
    store(values + i, activation.forward(load(values + i)));
}

template <class C, class Activation, Saved kSaved>
DLK_BLOCK void backward_block(C* grad, const C* inputs, int64_t size, const double* parameters) {
  const Activation activation(parameters);
  for (int64_t i = 0; i < size; i += Vec<C>::kLanes) {
    const Vec<C> g = load(grad + i), x = load(inputs + i);
    if constexpr (kSaved == Saved::mask)
      store(grad + i, activation.backward(g, activation.mask(x)));
    else if constexpr (kSaved == Saved::output)
      store(grad + i, activation.backward(g, activation.forward(x)));
    else
      store(grad + i, activation.backward(g, x));
  }
}

template <class C> Forward<C> forward_of(int32_t index) {
  static constexpr Forward<C> blocks[] = {
#define DLK_ACTIVATION(name, Functor, saved) forward_block<C, Functor<C>>,
      DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
  };
  return blocks[index];
}

template <class C> Backward<C> backward_of(int32_t index) {
  static constexpr Backward<C> blocks[] = {
#define DLK_ACTIVATION(name, Functor, saved) backward_block<C, Functor<C>, Saved::saved>,
      DLK_ACTIVATIONS(DLK_ACTIVATION)
#undef DLK_ACTIVATION
  };
  return blocks[index];
}

// body(offset in the block, column, size) for each piece of the block at `begin` within one row.
template <class Body>
DLK_INLINE void for_each_piece(int64_t begin, int64_t size, int64_t columns, Body&& body) {
  for (int64_t at = 0, column = begin % columns; at < size; column = 0) {
    const int64_t piece = columns - column < size - at ? columns - column : size - at;
    body(at, column, piece);
    at += piece;
  }
}

// x + bias for a block, zeros up to a whole vector.
template <class T, class C>
void load_block(const BiasActDropoutArgs& args, int64_t begin, int64_t size, C* values) {
  const T* x = static_cast<const T*>(args.input) + begin;
  const T* bias = static_cast<const T*>(args.bias);
  if (size % Vec<C>::kLanes)
    store(values + size / Vec<C>::kLanes * Vec<C>::kLanes, Vec<C>(0));
  if (!bias)
    return for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
      store_lanes(values + i, load_lanes(x + i, lanes), lanes);
    });
  for_each_piece(begin, size, args.columns, [&](int64_t at, int64_t column, int64_t piece) {
    for_each_vec<C>(piece, [&](int64_t i, auto lanes) DLK_BODY {
      const Vec<C> sum = load_lanes(x + at + i, lanes) + load_lanes(bias + column + i, lanes);
      store_lanes(values + at + i, sum, lanes);
    });
  });
}

template <class C> DLK_INLINE Vec<C> keep_at(const uint64_t* words, int64_t i, Vec<C> value) {
  return keep(uint32_t(words[i / kDrawElems] >> (i % kDrawElems)), value);
}

template <class T> void forward(const BiasActDropoutArgs& args) {
  using C = Compute<T>;
  const KeepMask mask(args.seed, args.limit, args.factor);
  const Vec<C> factor(C(args.factor));
  const auto activate = forward_of<C>(args.activation);
  parallel_elements(args.rows * args.columns, [&](int64_t begin, int64_t end) {
    alignas(kVecBytes) Block<C> values;
    uint64_t words[kBlockElems / kDrawElems];
    for (int64_t size; begin < end; begin += size) {
      size = end - begin < kBlockElems ? end - begin : kBlockElems;
      load_block<T>(args, begin, size, values);
      activate(values, size, args.parameters);
      mask.draw(words, begin, size);
      T* y = static_cast<T*>(args.output) + begin;
      const bool aligned = reinterpret_cast<uintptr_t>(y) % (Vec<C>::kLanes * sizeof(T)) == 0;
      const bool nontemporal = args.nontemporal && aligned; // a step must not straddle words
      for_each_vec_to(y, size, nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
        store_lanes(y + i, keep_at(words, i, load(values + i) * factor), lanes);
      });
    }
  });
}

template <class T> void backward(const BiasActDropoutArgs& args) {
  using C = Compute<T>;
  const KeepMask mask(args.seed, args.limit, args.factor);
  const Vec<C> factor(C(args.factor));
  const auto differentiate = backward_of<C>(args.activation);
  const int64_t columns = args.columns, chunk_rows = bias_chunk_rows(args.rows);
  const int64_t chunks = chunk_count(args.rows, chunk_rows);
  parallel_chunks(chunks, args.rows * columns, [&](int64_t first, int64_t last, int) {
    alignas(kVecBytes) Block<C> values;
    alignas(kVecBytes) Block<C> grad;
    uint64_t words[kBlockElems / kDrawElems];
    for (int64_t chunk = first; chunk < last; ++chunk) {
      double* sums = args.grad_bias ? args.bias_sums + chunk * columns : nullptr;
      for (int64_t column = 0; sums && column < columns; ++column)
        sums[column] = 0;
      const int64_t stop_row = (chunk + 1) * chunk_rows;
      const int64_t stop = (stop_row < args.rows ? stop_row : args.rows) * columns;
      int64_t size;
      for (int64_t begin = chunk * chunk_rows * columns; begin < stop; begin += size) {
        size = stop - begin < kBlockElems ? stop - begin : kBlockElems;
        load_block<T>(args, begin, size, values);
        mask.draw(words, begin, size);
        const T* g = static_cast<const T*>(args.grad_output) + begin;
        for_each_vec<C>(size, [&](int64_t i, auto lanes)
                                  DLK_BODY { store(grad + i, load_lanes(g + i, lanes) * factor); });
        differentiate(grad, values, size, args.parameters);
        for (int64_t i = 0; i < size; i += Vec<C>::kLanes)
          store(grad + i, keep_at(words, i, load(grad + i)));
        T* dx = static_cast<T*>(args.output) + begin;
        for_each_vec_to(dx, size, args.nontemporal, [&](int64_t i, auto lanes) DLK_BODY {
          store_lanes(dx + i, load_lanes(grad + i, lanes), lanes);
        });
        if (sums)
          for_each_piece(begin, size, columns, [&](int64_t at, int64_t column, int64_t piece) {
            for (int64_t i = 0; i < piece; ++i)
              sums[column + i] += double(grad[at + i]);
          });
      }
    }
  });
  if (!args.grad_bias)
    return;
  T* result = static_cast<T*>(args.grad_bias);
  for (int64_t column = 0; column < columns; ++column) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      sum += args.bias_sums[chunk * columns + column];
    store_scalar(result + column, C(sum));
  }
}

} // namespace

void bias_act_dropout(BiasActDropoutArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { forward<decltype(type)>(args); });
}

void bias_act_dropout_backward(BiasActDropoutArgs& args) noexcept {
  with_storage_type(args.dtype, [&](auto type) { backward<decltype(type)>(args); });
}

} // namespace dlk::DLK_ISA
