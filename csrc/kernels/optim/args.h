// Arguments of the steps of optimizers.
#pragma once

#include "core/dtype.h"

namespace dlk {

// A step of an optimizer, of any rule, over any number of arrays. An array's streams are the
// parameter, its gradient, the tensors of its state that the rule keeps, in the rule's order, and
// the moving average of the parameter.
constexpr int kOptimizerSlots = 3; // states per element at most
constexpr int kParamStream = 0, kGradStream = 1, kFirstSlotStream = 2;
constexpr int kAverageStream = kFirstSlotStream + kOptimizerSlots;
constexpr int kOptimizerStreams = kAverageStream + 1;
constexpr int kOptimizerNumbers = 12;

// Traits of a kernel, as kernels.def has them.
enum OptimizerTrait : int { kSumsOverParameters = 1 };

// Elements that are converted to the computing type at once. Pieces of arrays start on multiples
// of it, so that what is kept per block has one writer.
constexpr int64_t kOptimizerBlock = 256;

// What an element of a stream is made of.
enum class StreamFormat : int32_t {
  plain,          // a number of the stream's dtype
  random,         // a bfloat16, rounded at random
  signed_codes,   // a code of the dynamic map; aux has a float32 scale for each 256 elements
  unsigned_codes, // the same for numbers that are not negative
  split,          // a bfloat16; aux has the low half of the float32
};

struct OptimizerArray {
  void* streams[kOptimizerStreams]; // nullptr for one that is not kept; without a gradient the
                                    // average alone is updated
  void* aux[kOptimizerStreams];     // the second part of formats that have one
  int64_t size;
  int64_t offset;          // of the first element, in all elements of the parameter
  int32_t layout, setting; // indices into the arrays of OptimizerArgs
  int32_t param;           // of which parameter: one with gaps is several arrays, in a row
  int32_t number;          // of the parameter among all, for its random numbers
};

// How the streams lie in memory, along the one flattened dimension.
struct OptimizerLayout {
  DType dtypes[kOptimizerStreams];
  StreamFormat formats[kOptimizerStreams];
  int64_t strides[kOptimizerStreams]; // in elements
  int64_t low_stride;                 // of the low halves of a split parameter
  bool plain;                         // all that the rule reads: one dtype, strides of 1
};

// What the rule computes with: arrays of one group at the same step share one.
struct OptimizerSetting {
  double numbers[kOptimizerNumbers];
  uint64_t seed; // of the random numbers, with the step
  uint32_t step;
  bool rounds; // bfloat16 states at random
};

// A piece of one array; the pieces of all arrays are shared out in one parallel region.
struct OptimizerChunk {
  int64_t array, begin, end;
};

// What happens around the rule, the same for every array of the step.
struct OptimizerExtras {
  double unscale = 1, clip = 1; // factors of the gradient; it is rounded after each
  bool scales = false;          // one of them is not 1
  bool write_back = false;      // the gradient becomes what the rule saw
  bool zero_grads = false;      // ... or zero, afterwards
  bool average_copies = false;  // the average is the parameter
  double average_weight = 0;    // else: average += weight * (parameter - average)
};

// Of a piece of a gradient, unscaled: the sum of squares, and zero, or NaN where it is not finite.
struct GradientSums {
  double squares, probe;
};

struct OptimizerArgs {
  const OptimizerArray* arrays;
  const OptimizerLayout* layouts;
  const OptimizerSetting* settings;
  const OptimizerChunk* chunks;
  int64_t chunk_count;
  int64_t total_elems;
  bool past_cache; // one state of all arrays is more than fits the cache
  OptimizerExtras extras;
  GradientSums* sums = nullptr; // [chunk_count]: grad_norm writes it
  double* param_sums = nullptr; // two for each chunk: kernels with kSumsOverParameters
};

} // namespace dlk
