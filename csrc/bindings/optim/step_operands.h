// The arrays of one parameter, on their way into an OptimizerStep.
#pragma once

#include "bindings/optim/optimizer_step.h"

#include <algorithm>
#include <cstdlib>

namespace dlk {

constexpr int kLowOperand = kOptimizerStreams, kOperands = kOptimizerStreams + 1;

// The arrays of one parameter.
struct OptimizerStep::Operands {
  TensorView views[kOperands];
  bool is_there[kOperands] = {};
  StreamFormat formats[kOperands] = {};
  void* scales[kOptimizerStreams] = {};
};

// The dimensions of all of them, outermost in the parameter first, neighbours joined where all
// strides allow it.
struct OptimizerStep::Dims {
  struct Dim {
    int64_t size, strides[kOperands];
  };
  Dim dims[kMaxDims];
  int count = 0;
  bool empty = false;

  explicit Dims(const Operands& operands) {
    const TensorView& param = operands.views[0];
    for (int dim = 0; dim < param.ndim; ++dim) {
      empty = empty || param.shape[dim] == 0;
      if (param.shape[dim] == 1)
        continue;
      dims[count].size = param.shape[dim];
      for (int k = 0; k < kOperands; ++k)
        dims[count].strides[k] = operands.views[operands.is_there[k] ? k : 0].strides[dim];
      ++count;
    }
    std::stable_sort(dims, dims + count, [](const Dim& a, const Dim& b) {
      return std::abs(a.strides[0]) > std::abs(b.strides[0]);
    });
    int kept = 0;
    for (int dim = 0; dim < count; ++dim) {
      if (kept) {
        Dim& outer = dims[kept - 1];
        const Dim& inner = dims[dim];
        bool joins = true;
        for (int k = 0; k < kOperands; ++k)
          joins = joins && outer.strides[k] == inner.strides[k] * inner.size;
        if (joins) {
          const int64_t size = outer.size * inner.size;
          outer = inner;
          outer.size = size;
          continue;
        }
      }
      dims[kept++] = dims[dim];
    }
    count = kept;
  }
};

} // namespace dlk
