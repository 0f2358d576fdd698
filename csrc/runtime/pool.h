// The pool of output buffers. Touching fresh memory costs ten times as much as writing it once it
// is mapped, and glibc returns large buffers to the kernel at every free; so outputs of 1 MiB and
// more come from here: 64-byte aligned (2 MiB aligned from 2 MiB up, with MADV_HUGEPAGE), kept by
// size class when the last owner drops them, and used again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dlk::runtime {

constexpr size_t kPoolMinimumBytes = size_t{1} << 20;
constexpr size_t kBufferAlignment = 64;

// At least `bytes` bytes, 64-byte aligned, contents undefined; below kPoolMinimumBytes from the C
// library. nullptr when there is no memory (after the pool's idle blocks were released and it was
// tried again). Any thread, with or without the GIL.
void* acquire_buffer(size_t bytes);

// Takes back what acquire_buffer gave, with the same `bytes`. Any thread, with or without the GIL.
void release_buffer(void* data, size_t bytes);

struct PoolStatistics {
  int64_t in_use_bytes;      // handed out now, in whole size classes
  int64_t idle_bytes;        // kept for reuse
  int64_t peak_in_use_bytes; // highest in_use_bytes so far
  int64_t limit_bytes;       // idle_bytes never exceeds it
  int64_t hits;              // requests served by an idle block
  int64_t misses;            // requests that mapped fresh memory
  int64_t released;          // blocks given back to the system
};

PoolStatistics pool_statistics();
void empty_pool(); // gives every idle block back to the system
void set_pool_limit(int64_t bytes);

// Reads DLKERNELS_POOL_LIMIT (default: a quarter of the memory) and watches for forks; throws
// std::runtime_error on a wrong value.
void configure_pool_at_import();

// A buffer for the length of a scope; `data()` may be nullptr (no memory).
class ScopedBuffer {
public:
  explicit ScopedBuffer(size_t bytes)
      : bytes_(bytes), data_(bytes ? acquire_buffer(bytes) : nullptr) {}
  ~ScopedBuffer() {
    if (data_)
      release_buffer(data_, bytes_);
  }
  ScopedBuffer(const ScopedBuffer&) = delete;
  ScopedBuffer& operator=(const ScopedBuffer&) = delete;
  void* data() const { return data_; }

private:
  size_t bytes_;
  void* data_;
};

} // namespace dlk::runtime
