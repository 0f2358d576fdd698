// The kernels of optimizers by name.
#pragma once

#include "runtime/dispatch.h"

#include <string>

namespace dlk {

struct RuleKernel {
  void (*KernelTable::*function)(OptimizerArgs&) noexcept;
  bool sums_over_parameters; // it needs OptimizerArgs::param_sums
};

// The kernel of kernels.def by its name; ValueError for one that is no optimizer's.
RuleKernel rule_kernel(const std::string& name);

} // namespace dlk
