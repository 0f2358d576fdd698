// This level's row of the dispatch table, made from every kernels.def.
#include "kernels/kernel_table.h"

namespace dlk::DLK_ISA {

#define DLK_KERNEL(name, Args, ...) void name(Args&) noexcept;
#include "all_kernels.def"
#undef DLK_KERNEL

extern const KernelTable kernel_table;
const KernelTable kernel_table = {
#define DLK_KERNEL(name, Args, ...) name,
#include "all_kernels.def"
#undef DLK_KERNEL
};

} // namespace dlk::DLK_ISA
