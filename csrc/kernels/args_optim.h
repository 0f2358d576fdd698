// Steps of optimizers. The end of args.h includes this.
#pragma once

namespace dlk {

// A step of an optimizer, of any rule, over any number of arrays. An array's streams are the
// parameter, its gradient and the tensors of its state that the rule keeps, in the rule's order.
constexpr int kOptimizerSlots = 3; // states per element at most
constexpr int kOptimizerStreams = 2 + kOptimizerSlots;
constexpr int kOptimizerNumbers = 12;

struct OptimizerArray {
  void* streams[kOptimizerStreams]; // nullptr for a state that is not kept
  int64_t size;
  int32_t layout, setting; // indices into the arrays of OptimizerArgs
  int32_t param;           // of which parameter: one with gaps is several arrays, in a row
};

// How the streams lie in memory, along the one flattened dimension.
struct OptimizerLayout {
  DType dtypes[kOptimizerStreams];
  int64_t strides[kOptimizerStreams]; // in elements
  bool plain;                         // one dtype and strides of 1: the fast path
};

// What the rule computes with: arrays of one group at the same step share one.
struct OptimizerSetting {
  double numbers[kOptimizerNumbers];
};

// A piece of one array; the pieces of all arrays are shared out in one parallel region.
struct OptimizerChunk {
  int64_t array, begin, end;
};

struct OptimizerArgs {
  const OptimizerArray* arrays;
  const OptimizerLayout* layouts;
  const OptimizerSetting* settings;
  const OptimizerChunk* chunks;
  double* sums; // two for each chunk, of rules with norms; else nullptr
  int64_t chunk_count;
  int64_t total_elems;
};

} // namespace dlk
