#include "runtime/malloc_tuning.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace dlk::runtime {

bool tune_malloc(bool enable) {
#ifdef __GLIBC__
  // mallopt returns 1 on success. A trim threshold of -1 is the largest size_t: never trim.
  bool ok = mallopt(M_MMAP_MAX, enable ? 0 : 65536) == 1;
  ok &= mallopt(M_TRIM_THRESHOLD, enable ? -1 : 128 * 1024) == 1;
  ok &= mallopt(M_TOP_PAD, enable ? 64 * 1024 * 1024 : 0) == 1;
  if (!enable)
    malloc_trim(0);
  return ok;
#else
  (void)enable;
  return false;
#endif
}

} // namespace dlk::runtime
