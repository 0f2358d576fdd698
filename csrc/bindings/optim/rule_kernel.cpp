#include "bindings/optim/rule_kernel.h"

#include "kernels/optim/args.h"
#include "runtime/check.h"

namespace dlk {

RuleKernel rule_kernel(const std::string& name) {
  static const std::pair<const char*, RuleKernel> kernels[] = {
#define DLK_KERNEL(name, Args, ...) {#name, {&KernelTable::name, {__VA_ARGS__}}},
#include "kernels/optim/kernels.def"
#undef DLK_KERNEL
  };
  for (const auto& [known, kernel] : kernels)
    if (name == known)
      return kernel;
  throw std::invalid_argument(text("optimizer: unknown rule ", name));
}

} // namespace dlk
