#include "runtime/pool.h"

#include "runtime/check.h"
#include "runtime/environment.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <mutex>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

namespace dlk::runtime {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr int kMinimumOctave = 20; // 2^20 == kPoolMinimumBytes
constexpr int kMaximumOctave = 46;
constexpr int kClassesPerOctave = 8;
constexpr int kClassCount = (kMaximumOctave - kMinimumOctave + 1) * kClassesPerOctave;

struct SizeClass {
  int index;
  size_t bytes;
};

// Eight classes an octave: at most one eighth of a block is waste. `bytes` is at least the minimum
// and below 2^46.
SizeClass size_class(size_t bytes) {
  const int octave = 63 - __builtin_clzll(bytes);
  const size_t step = size_t{1} << (octave - 3);
  const size_t steps = (bytes + step - 1) / step; // 8 .. 16
  return {(octave - kMinimumOctave) * kClassesPerOctave + static_cast<int>(steps) - 8,
          steps * step};
}

// An idle block; lives in the block's own first bytes.
struct Block {
  Block *newer, *older;             // in order of release, over all classes
  Block *class_newer, *class_older; // the same within the class
  size_t bytes;
  int class_index;
};

void* map_block(size_t bytes) {
  const bool huge = bytes >= kHugePageBytes;
  // Mapped with room to spare, then trimmed to the aligned part.
  const size_t mapped_bytes = bytes + (huge ? kHugePageBytes : 0);
  void* mapped =
      mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return nullptr;
  if (!huge)
    return mapped;
  char* start = static_cast<char*>(mapped);
  const size_t head_bytes = -reinterpret_cast<uintptr_t>(start) % kHugePageBytes;
  const size_t tail_bytes = kHugePageBytes - head_bytes;
  if (head_bytes)
    munmap(start, head_bytes);
  if (tail_bytes)
    munmap(start + head_bytes + bytes, tail_bytes);
#ifdef MADV_HUGEPAGE
  madvise(start + head_bytes, bytes, MADV_HUGEPAGE);
#endif
  return start + head_bytes;
}

// Gives a chain of blocks, linked by `older`, back to the system.
void unmap_chain(Block* block) {
  while (block) {
    Block* next = block->older;
    munmap(block, block->bytes);
    block = next;
  }
}

class Pool {
public:
  void* acquire(size_t bytes) {
    const SizeClass wanted = size_class(bytes);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (Block* block = class_newest_[wanted.index]) {
        unlink(block);
        ++hits_;
        count_in_use(wanted.bytes);
        return block;
      }
    }
    void* data = map_block(wanted.bytes);
    if (data == nullptr) {
      empty();
      data = map_block(wanted.bytes);
    }
    if (data != nullptr) {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++misses_;
      count_in_use(wanted.bytes);
    }
    return data;
  }

  void release(void* data, size_t bytes) {
    const SizeClass given = size_class(bytes);
    Block* block = static_cast<Block*>(data);
    Block* leaving = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      in_use_bytes_ -= static_cast<int64_t>(given.bytes);
      if (static_cast<int64_t>(given.bytes) <= limit_bytes_) {
        leaving = evict_to(limit_bytes_ - static_cast<int64_t>(given.bytes));
        block->bytes = given.bytes;
        block->class_index = given.index;
        link(block);
        block = nullptr;
      } else {
        ++released_;
      }
    }
    unmap_chain(leaving);
    if (block)
      munmap(block, given.bytes);
  }

  void empty() {
    Block* leaving;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      leaving = evict_to(0);
    }
    unmap_chain(leaving);
  }

  void set_limit(int64_t bytes) {
    Block* leaving;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      limit_bytes_ = bytes;
      leaving = evict_to(bytes);
    }
    unmap_chain(leaving);
  }

  PoolStatistics statistics() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {in_use_bytes_, idle_bytes_, peak_in_use_bytes_, limit_bytes_,
            hits_,         misses_,     released_};
  }

  void before_fork() { mutex_.lock(); }
  void after_fork_in_parent() { mutex_.unlock(); }
  void after_fork_in_child() {
    // Writing to an inherited block would first copy the parent's pages: fresh ones are cheaper.
    Block* leaving = evict_to(0);
    mutex_.unlock();
    unmap_chain(leaving);
  }

private:
  void count_in_use(size_t bytes) {
    in_use_bytes_ += static_cast<int64_t>(bytes);
    peak_in_use_bytes_ = std::max(peak_in_use_bytes_, in_use_bytes_);
  }

  void link(Block* block) {
    Block*& class_newest = class_newest_[block->class_index];
    block->newer = nullptr;
    block->older = newest_;
    block->class_newer = nullptr;
    block->class_older = class_newest;
    (newest_ ? newest_->newer : oldest_) = block;
    newest_ = block;
    if (class_newest)
      class_newest->class_newer = block;
    class_newest = block;
    idle_bytes_ += static_cast<int64_t>(block->bytes);
  }

  void unlink(Block* block) {
    (block->newer ? block->newer->older : newest_) = block->older;
    (block->older ? block->older->newer : oldest_) = block->newer;
    (block->class_newer ? block->class_newer->class_older : class_newest_[block->class_index]) =
        block->class_older;
    if (block->class_older)
      block->class_older->class_newer = block->class_newer;
    idle_bytes_ -= static_cast<int64_t>(block->bytes);
  }

  // Takes out the oldest blocks until at most `bytes` are idle; for unmap_chain, outside the lock.
  Block* evict_to(int64_t bytes) {
    Block* chain = nullptr;
    while (idle_bytes_ > bytes) {
      Block* block = oldest_;
      unlink(block);
      block->older = chain;
      chain = block;
      ++released_;
    }
    return chain;
  }

  std::mutex mutex_;
  Block* class_newest_[kClassCount] = {}; // the last block given back is the first given out
  Block *newest_ = nullptr, *oldest_ = nullptr;
  int64_t in_use_bytes_ = 0, idle_bytes_ = 0, peak_in_use_bytes_ = 0;
  int64_t limit_bytes_ = int64_t{1} << 30; // until configure_pool_at_import
  int64_t hits_ = 0, misses_ = 0, released_ = 0;
};

// Never destroyed: arrays may be dropped after this library's static objects are.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

// The least of the machine's memory and what the control group allows.
int64_t available_memory_bytes() {
  int64_t bytes = int64_t{4} << 30;
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page_bytes > 0)
    bytes = pages * page_bytes;
  for (const char* file :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t allowed = 0; // "max" does not parse
    if (std::ifstream(file) >> allowed && allowed > 0)
      bytes = std::min(bytes, allowed);
  }
  return bytes;
}

// Below the pool's minimum: malloc, aligned by hand, because glibc's aligned allocation bypasses
// its fast free lists. The byte before the data tells how far it was moved.
void* acquire_small(size_t bytes) {
  char* start = static_cast<char*>(std::malloc(bytes + kBufferAlignment));
  if (start == nullptr)
    return nullptr;
  const size_t shift = kBufferAlignment - reinterpret_cast<uintptr_t>(start) % kBufferAlignment;
  start[shift - 1] = static_cast<char>(shift);
  return start + shift;
}

void release_small(void* data) {
  char* start = static_cast<char*>(data);
  std::free(start - start[-1]);
}

} // namespace

void configure_pool_at_import() {
  const auto limit = environment_bytes("DLKERNELS_POOL_LIMIT");
  pool().set_limit(limit ? *limit : available_memory_bytes() / 4);
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork([] { pool().before_fork(); }, [] { pool().after_fork_in_parent(); },
                   [] { pool().after_fork_in_child(); });
  });
}

void* acquire_buffer(size_t bytes) {
  if (bytes < kPoolMinimumBytes)
    return acquire_small(bytes);
  if (bytes >= size_t{1} << kMaximumOctave)
    return nullptr;
  return pool().acquire(bytes);
}

void release_buffer(void* data, size_t bytes) {
  if (bytes < kPoolMinimumBytes)
    release_small(data);
  else
    pool().release(data, bytes);
}

PoolStatistics pool_statistics() {
  return pool().statistics();
}

void empty_pool() {
  pool().empty();
}

void set_pool_limit(int64_t bytes) {
  DLK_CHECK(bytes >= 0, "set_pool_limit: bytes: expected at least 0, got ", bytes);
  pool().set_limit(bytes);
}

} // namespace dlk::runtime
