// Arguments of the activations: elementwise ones, PReLU, gated units and maxout.
#pragma once

#include "core/dtype.h"
#include "core/strided.h"

namespace dlk {

struct ActivationArgs {
  DType dtype;
  int32_t activation; // index into DLK_ACTIVATIONS
  int64_t size;
  double parameters[2] = {0, 0};
  const void* input = nullptr;       // forward: x
  void* output = nullptr;            // forward: y; backward: dx
  const void* grad_output = nullptr; // backward
  const void* saved = nullptr;       // backward: input or output (see Saved); or
  uint8_t* mask = nullptr; // one bit per element: forward writes (optional), backward reads
  bool nontemporal = false;
};

// An activation with a learned slope per channel, on arrays without gaps: element m of the memory
// belongs to channel m / inner % channels.
struct PreluArgs {
  DType dtype; // of every array
  int64_t size, channels, inner;
  const void* input = nullptr;
  const void* weight = nullptr;      // [channels]
  const void* grad_output = nullptr; // backward
  void* output = nullptr;            // y; backward: dx
  void* grad_weight = nullptr;       // backward: [channels]
  double* partials = nullptr;        // backward: prelu_partials()
  void* scratch = nullptr;           // prelu_scratch_bytes()
  bool nontemporal = false;
};

// Channels of at least this many elements in a row are done one by one; shorter ones in periods of
// several channels' elements, with a slope for each place in the period.
constexpr int64_t kPreluLongRow = 256, kPreluPeriodElems = 512, kPreluChunkElems = 131072;
constexpr int64_t kPreluRowBlock = 16384;

[[gnu::always_inline]] constexpr bool prelu_has_long_rows(const PreluArgs& args) {
  return args.channels == 1 || args.inner >= kPreluLongRow;
}
[[gnu::always_inline]] constexpr int64_t prelu_period(const PreluArgs& args) {
  const int64_t round = args.channels * args.inner;
  return round * chunk_count(kPreluPeriodElems, round);
}
[[gnu::always_inline]] constexpr int64_t prelu_period_chunk(const PreluArgs& args) {
  const int64_t period = prelu_period(args);
  return period * chunk_count(kPreluChunkElems, period);
}
[[gnu::always_inline]] constexpr int64_t prelu_partials(const PreluArgs& args) {
  if (prelu_has_long_rows(args))
    return args.size / args.inner * chunk_count(args.inner, kPreluRowBlock);
  return chunk_count(args.size, prelu_period_chunk(args)) * args.channels;
}
// The slopes of a period and, for each thread, its sums; both a vector longer than the period.
[[gnu::always_inline]] constexpr int64_t prelu_scratch_bytes(const PreluArgs& args, int threads) {
  if (prelu_has_long_rows(args))
    return 0;
  return (prelu_period(args) + 16) * (args.dtype == DType::float64 ? 8 : 4) * (1 + threads);
}

// Gated units, rows of `cols` elements side by side: glu is value * sigmoid(gate), swiglu value *
// silu(gate). Strides are in elements.
struct GatedArgs {
  DType dtype;
  bool silu;
  int64_t rows, cols;
  const void *value = nullptr, *gate = nullptr;
  int64_t value_stride = 0, gate_stride = 0;
  const void* grad_output = nullptr; // backward
  int64_t grad_stride = 0;
  void* output = nullptr;                           // forward, rows without gaps
  void *grad_value = nullptr, *grad_gate = nullptr; // backward
  int64_t grad_value_stride = 0, grad_gate_stride = 0;
  bool nontemporal = false;
};

// Maximum over `pieces` of x, which lies as (rows, pieces, cols); with interleaved = true the
// pieces of an element are side by side instead: (rows, cols, pieces). The winner's number is kept
// in maxout_index_bits() bits an element: for each 16 elements of a row, one 16-bit word a bit.
struct MaxoutArgs {
  DType dtype;
  bool interleaved;
  int64_t rows, cols, pieces;
  const void* input = nullptr;       // forward: x
  const void* grad_output = nullptr; // backward: (rows, cols)
  void* output = nullptr;            // forward: y (rows, cols); backward: dx
  uint8_t* index = nullptr;          // forward writes (optional), backward reads
  bool nontemporal = false;
  bool bad_index = false; // result of backward: some number in the index is no piece's
};

[[gnu::always_inline]] constexpr int64_t maxout_index_bits(int64_t pieces) {
  int64_t bits = 0;
  while ((int64_t(1) << bits) < pieces)
    ++bits;
  return bits;
}
[[gnu::always_inline]] constexpr int64_t maxout_index_row_bytes(int64_t cols, int64_t pieces) {
  return chunk_count(cols, 16) * 2 * maxout_index_bits(pieces);
}

} // namespace dlk
