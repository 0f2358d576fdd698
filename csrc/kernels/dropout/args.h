// Dropout and image normalization. The end of args.h includes this.
#pragma once

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

// Images as (image, row, column, channel), times and plus a number per channel, into another layout
// or type. Strides are in elements.
struct ImageLayout {
  void* data = nullptr;
  DType dtype = DType::float32; // floating or uint8
  int64_t image_stride = 0, row_stride = 0;
  int64_t plane_stride =
      0; // 0: the channels of a pixel lie side by side; else of a channel's plane
};

struct ImageAffineArgs {
  int64_t images, rows, columns, channels;
  ImageLayout input, output;
  // [channels * repeats] of float (of double if an array is float64): the channels' own, `repeats`
  // times over.
  const void* factor;
  const void* shift;
  int64_t repeats;
  bool nontemporal = false;
};

// A block of pixels, all channels of it; so many channels at most.
constexpr int64_t kImageBlockElems = 4096, kImageBlockPixels = 512;

} // namespace dlk
