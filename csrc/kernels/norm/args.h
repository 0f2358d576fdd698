// Arguments of batch normalization.
#pragma once

#include "core/dtype.h"
#include "core/strided.h"

namespace dlk {

// Batch normalization, of arrays in one of two layouts:
// - planes: the positions of a channel lie side by side; element (b, c, s) lies at
//   b * batch_stride + c * class_stride + s.
// - rows: the channels lie side by side. A row is `width` elements, a multiple of 16 and of the
//   channels; element j of row b lies at b * batch_stride + j and belongs to channel j % channels.
//   After the `batches` whole rows come `tail` elements, whole groups of channels.
enum class NormActivation : int32_t { none, relu, leaky_relu, silu };

struct BatchNormArgs {
  DType dtype; // of the arrays
  bool rows;
  int64_t batches, channels, positions; // rows: positions is 1
  int64_t width = 0, tail = 0;          // rows
  NormActivation activation = NormActivation::none;
  double negative_slope = 0; // leaky_relu
  ClassArray input;
  ClassArray residual;      // data == nullptr: none
  ClassArray output;        // forward: y; backward: dx (data == nullptr: not wanted)
  ClassArray grad_output;   // backward
  ClassArray grad_residual; // backward; data == nullptr: not wanted
  uint8_t* mask = nullptr;  // one bit per element where the gradient passes
  int64_t mask_batch_stride = 0, mask_class_stride = 0; // in bits
  const double* weight = nullptr;                       // [channels]; nullptr: ones
  const double* bias = nullptr;                         // nullptr: zeros
  double count = 0;                                     // elements of a channel
  double eps = 0;
  // [channels] each. Forward: with `reduce` results, else read. Backward: read.
  double *mean = nullptr, *m2 = nullptr; // m2: sum of squared deviations; with `reduce` alone
  double* invstd = nullptr;              // 1 / sqrt(m2 / count + eps)
  // Backward, [channels] each: with `reduce` results, else read.
  double *sum_dy = nullptr, *sum_dy_xmu = nullptr;
  bool reduce = false;      // forward: compute the statistics; backward: the sums
  bool elementwise = false; // forward: write the output; backward: the gradients that are wanted
  bool training = false;    // backward: the statistics are those of the input, and differentiated
  // Few channels, or (rows) channels of more than a few elements: two passes that share out chunks
  // of every channel, instead of one that shares out channels.
  bool split = false;
  int64_t slab_columns = 64; // rows, not split: channels that one item takes, at most 64
  double* scratch = nullptr; // norm_scratch_doubles
  bool nontemporal = false;
};

// A vector of parameters or statistics, as doubles.
struct DoubleVectorArgs {
  DType dtype;
  int64_t size, stride;
  void* data;
  double* values;
  double eps; // inverse_stds: values become 1 / sqrt(values + eps)
};

constexpr int64_t kNormChunkElems = 8192;    // planes: elements of a channel that one sum takes
constexpr int64_t kNormSlabColumns = 64;     // the most of slab_columns
constexpr int64_t kNormCoefficients = 6;     // of a channel
constexpr int64_t kNormSums = 3;             // of a chunk of a channel
constexpr int64_t kNormTablePadding = 16;    // rows: a vector may start on a table's last element
constexpr int64_t kNormWideColumns = 512;    // rows, split: short rows are written together
constexpr int64_t kNormColumnsPerItem = 512; // rows, split: columns of a chunk that one item takes

// Rows that one sum takes.
[[gnu::always_inline]] constexpr int64_t norm_chunk_rows(int64_t width) {
  return width >= 512 ? 128 : 65536 / width;
}
[[gnu::always_inline]] constexpr int64_t norm_chunks(const BatchNormArgs& args) {
  return args.rows ? chunk_count(args.batches, norm_chunk_rows(args.width))
                   : chunk_count(args.batches * args.positions, kNormChunkElems);
}
// The sums of every chunk (and of the tail), and the rows' table of coefficients.
[[gnu::always_inline]] constexpr int64_t norm_scratch_doubles(const BatchNormArgs& args) {
  if (!args.split)
    return 0;
  const int64_t columns = args.rows ? args.width : args.channels;
  const int64_t sums = args.reduce ? kNormSums * columns * (norm_chunks(args) + 1) : 0;
  const int64_t table = args.width < kNormWideColumns ? kNormWideColumns : args.width;
  return sums + (args.rows ? kNormCoefficients * (table + kNormTablePadding) : 0);
}

} // namespace dlk
