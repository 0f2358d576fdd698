#include "bindings/optim/rule_kernel.h"

#include "runtime/check.h"

#include <stdexcept>

namespace dlk {
namespace {

using Function = void (*KernelTable::*)(OptimizerArgs&) noexcept;

Function as_optimizer(Function function) {
  return function;
}
template <class Other> Function as_optimizer(Other) {
  return nullptr;
}

} // namespace

RuleKernel rule_kernel(const std::string& name) {
  static const std::pair<const char*, Function> functions[] = {
#define DLK_KERNEL(name, Args) {#name, as_optimizer(&KernelTable::name)},
#include "kernels/kernels.def"
#undef DLK_KERNEL
  };
  for (const auto& [known, function] : functions)
    if (function && name == known)
      return {function, function == &KernelTable::lamb || function == &KernelTable::lars};
  throw std::invalid_argument(text("optimizer: unknown rule ", name));
}

} // namespace dlk
