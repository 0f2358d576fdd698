// One switch for the whole process: keep glibc from handing memory back to the kernel at every
// free.
#pragma once

namespace dlk::runtime {

// mallopt(M_MMAP_MAX 0, M_TRIM_THRESHOLD -1, M_TOP_PAD 64 MiB); `enable == false` restores glibc's
// defaults and trims. Returns false, having done nothing, where the C library is not glibc.
bool tune_malloc(bool enable);

} // namespace dlk::runtime
