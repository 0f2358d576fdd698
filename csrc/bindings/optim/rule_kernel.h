// The kernels of optimizers by name.
#pragma once

#include "runtime/dispatch.h"

#include <string>

namespace dlk {

// A line of kernels/optim/kernels.def.
struct RuleKernel {
  void (*KernelTable::*function)(OptimizerArgs&) noexcept;
  int traits; // of OptimizerTrait
};

// By its name; ValueError for an unknown one.
RuleKernel rule_kernel(const std::string& name);

} // namespace dlk
