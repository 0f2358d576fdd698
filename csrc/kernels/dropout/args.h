// Arguments of the dropouts.
#pragma once

#include "core/dtype.h"
#include "core/strided.h"

namespace dlk {

// Arrays without gaps. Element e (row-major) is kept where its random number is at most `limit`.
struct DropoutArgs {
  DType dtype;
  int64_t size;
  uint64_t seed;
  uint16_t limit;
  double factor = 1; // of what is kept
  bool shifted = false;
  double kept_shift = 0, dropped_shift = 0; // if shifted
  int64_t plane = 1;                        // elements that are kept or dropped together
  int64_t channels = 0;                     // not 0: channels lie side by side, then planes
  uint64_t* words = nullptr; // scratch with channels: chunk_count(channels, 64) for each image
  // Element by element: one bit for each, chunk_count(size, 64) words, to write (optional) or to
  // read instead of drawing.
  uint64_t* kept_out = nullptr;
  const uint64_t* kept_in = nullptr;
  const void* input = nullptr;
  const void* residual = nullptr; // added, or nullptr
  void* output = nullptr;
  bool nontemporal = false;
};

// One block of the generator, for its tests.
struct PhiloxArgs {
  uint64_t key;
  uint32_t words[4]; // the counter, then the block
};

// dropout(activation(x + bias)), x in rows of `columns`.
struct BiasActDropoutArgs {
  DType dtype;
  int64_t rows, columns;
  int32_t activation; // index into DLK_ACTIVATIONS
  double parameters[2] = {0, 0};
  uint64_t seed;
  uint16_t limit;
  double factor = 1;
  const void* input = nullptr;
  const void* bias = nullptr;        // [columns], or nullptr
  const void* grad_output = nullptr; // backward
  void* output = nullptr;            // y; backward: dx
  void* grad_bias = nullptr;         // backward, optional
  double* bias_sums = nullptr;       // scratch with grad_bias: bias_chunks(rows) x columns
  bool nontemporal = false;
};

// Chunks of rows whose sums are combined in the bias's gradient: fixed by the data, and few,
// because each has a sum for every column.
constexpr int64_t kBiasChunks = 64;

[[gnu::always_inline]] constexpr int64_t bias_chunk_rows(int64_t rows) {
  return rows > kBiasChunks ? chunk_count(rows, kBiasChunks) : 1;
}

} // namespace dlk
