// One function pointer per line of kernels.def.
#pragma once

#include "kernels/args.h"

namespace dlk {

struct KernelTable {
#define DLK_KERNEL(name, Args) void (*name)(Args&) noexcept;
#include "kernels/kernels.def"
#undef DLK_KERNEL
};

} // namespace dlk
