// One function pointer per line of the families' kernels.def:
//
//   DLK_KERNEL(name, Args, traits...)   `name` is a function in `dlk::<level>` with the signature
//                                       void name(Args&) noexcept; Args is in the family's args.h
//
// Arguments are only declared here, so that who calls one family's kernels is compiled again for
// that family's args.h alone. CMake writes all_kernels.def, which includes every kernels.def.
#pragma once

namespace dlk {

#define DLK_KERNEL(name, Args, ...) struct Args;
#include "all_kernels.def"
#undef DLK_KERNEL

struct KernelTable {
#define DLK_KERNEL(name, Args, ...) void (*name)(Args&) noexcept;
#include "all_kernels.def"
#undef DLK_KERNEL
};

} // namespace dlk
