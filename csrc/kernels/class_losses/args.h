// Arguments of the kernels over class scores: plain structs, filled by the bindings. Everything is
// checked before a kernel sees it; kernels neither allocate nor throw, so scratch memory comes with
// the call.
#pragma once

#include "core/dtype.h"
#include "core/strided.h"

namespace dlk {

// Integer class targets, one per (batch, position).
struct ClassIndices {
  const void* data = nullptr;
  DType dtype = DType::int64;
  int64_t batch_stride = 0, position_stride = 0;
};

// Checks class targets before anything is written: are they in range, and what is the divisor.
struct ClassTargetsArgs {
  ClassIndices target;
  int64_t batches, classes, positions;
  int64_t ignore_index;
  const void* weight = nullptr; // [classes] of weight_dtype, or nullptr for ones
  DType weight_dtype = DType::float32;
  // results
  double weight_sum;  // of the targets that are not ignored
  int64_t counted;    // how many are not ignored
  bool out_of_bounds; // some target is neither ignored nor in [0, classes)
  int64_t bad_target; // the first such target, in row order
};

struct CrossEntropyArgs {
  DType dtype; // of logits, grad_logits, weight and target_probability
  int64_t batches, classes, positions;
  ClassArray logits;
  ClassArray grad_logits; // data == nullptr: not wanted; may be the logits' own memory
  ClassIndices target;    // used when target_probability.data is nullptr
  ClassArray target_probability;
  const void* weight = nullptr; // [classes]
  int64_t ignore_index = -100;
  double label_smoothing = 0, z_loss = 0, softcap = 0; // softcap 0: none
  // Row r = b * positions + s contributes row_scale * its cross-entropy + z_scale * z_loss * lse^2
  // to the loss whose gradient is wanted, times grad_output.
  double row_scale = 1, z_scale = 1;
  const void* grad_output_rows = nullptr; // per row, of dtype; nullptr: the scalar below
  double grad_output = 1;
  // results, each optional but loss_partials
  void* row_loss = nullptr;  // [rows] of dtype, unscaled
  double* row_lse = nullptr; // [rows] log-sum-exp of the (capped) logits
  int64_t* row_argmax = nullptr;
  bool visit_ignored = false;      // fill row_lse and row_argmax of ignored rows too
  double* loss_partials = nullptr; // two a chunk of rows (or a tile): a sum and what it lost
  double loss_sum = 0;             // sum of row_scale * ce + z_scale * z_loss * lse^2
  // scratch: scratch_bytes_per_thread for each of runtime::thread_count() threads
  void* scratch = nullptr;
  int64_t scratch_bytes_per_thread = 0;
  bool nontemporal = false; // write the gradient past the cache
};

// Rows a chunk takes and what it needs; fixed by the data, never by the threads. The binding sizes
// loss_partials and scratch with it.

// A block of a row: stays in L1 between its passes, and its sum is made in lanes of the computing
// type, the row's in double. float64 has no digits to spare for long lanes.
constexpr int64_t kRowBlockElems = 2048;
[[gnu::always_inline]] constexpr int64_t row_block_elems(int64_t compute_bytes) {
  return compute_bytes == 8 ? 256 : kRowBlockElems;
}

[[gnu::always_inline]] constexpr int64_t row_chunk(int64_t classes) {
  return classes >= 32768 ? 1 : 32768 / (classes < 16 ? 16 : classes);
}
[[gnu::always_inline]] constexpr int64_t row_scratch_bytes(int64_t classes, DType dtype) {
  const int64_t compute_bytes = compute_bytes_of(dtype);
  const int64_t elems = classes + chunk_count(classes, row_block_elems(compute_bytes));
  return (elems * compute_bytes + 63) / 64 * 64;
}

// Where the classes are strided: positions that a tile takes, at most kPlaneTile; whether all its
// classes are kept in scratch, or a block of them; and all its scratch.
constexpr int64_t kPlaneTile = 64;
[[gnu::always_inline]] constexpr int64_t plane_tile(int64_t classes, int64_t compute_bytes) {
  return classes * compute_bytes <= 2048 ? kPlaneTile : kPlaneTile / 2; // 128 KB
}
[[gnu::always_inline]] constexpr bool plane_keeps(int64_t classes, int64_t compute_bytes) {
  return classes * compute_bytes <= 131072; // 4 MB, in the last level's cache
}
[[gnu::always_inline]] constexpr int64_t plane_scratch_classes(int64_t classes,
                                                               int64_t compute_bytes) {
  return plane_keeps(classes, compute_bytes) ? classes : row_block_elems(compute_bytes);
}
[[gnu::always_inline]] constexpr int64_t plane_scratch_bytes(int64_t classes, DType dtype) {
  const int64_t compute_bytes = compute_bytes_of(dtype);
  const int64_t rows = plane_scratch_classes(classes, compute_bytes) +
                       chunk_count(classes, row_block_elems(compute_bytes));
  return (rows * plane_tile(classes, compute_bytes) * compute_bytes + 63) / 64 * 64;
}

struct SoftmaxArgs {
  DType dtype;
  bool logarithm; // log_softmax
  bool rows;      // every class_stride is 1; else positions lie side by side
  int64_t batches, classes, positions;
  ClassArray input;       // forward: x; backward: the forward's output
  ClassArray grad_output; // backward only
  ClassArray output;      // forward: y; backward: dx
  void* scratch = nullptr;
  int64_t scratch_bytes_per_thread = 0;
  bool nontemporal = false;
};

constexpr int64_t kNllChunkRows = 1024;

struct NllLossArgs {
  DType dtype;
  int64_t batches, classes, positions;
  ClassArray log_probabilities; // backward: unused
  ClassArray grad_input;        // backward
  ClassIndices target;
  const void* weight = nullptr;
  int64_t ignore_index = -100;
  const void* grad_output_rows = nullptr; // backward, per row, of dtype
  double row_scale = 1;                   // backward: times grad_output
  void* row_loss = nullptr;               // forward, [rows] of dtype
  double* loss_partials = nullptr;        // forward, one per kNllChunkRows rows
  double loss_sum = 0;                    // forward
};

} // namespace dlk
