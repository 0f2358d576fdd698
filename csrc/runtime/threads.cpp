#include "runtime/threads.h"

#include "runtime/check.h"
#include "runtime/environment.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <omp.h>
#include <pthread.h>

namespace dlk::runtime {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kCacheLineBytes = 64;

// A thread takes its share in about this many bites: small enough to balance, large enough that the
// atomics cost nothing.
constexpr int64_t kBitesPerShare = 32;

// What one thread has left. `next` may run past `end`: then nothing is left.
struct alignas(kCacheLineBytes) Share {
  std::atomic<int64_t> next;
  int64_t end;
};

std::atomic<bool> forked_child{false};

// The limit belongs to the calling thread, like OpenMP's own setting: scratch memory is sized by
// thread_count() before a kernel runs, so no other thread may raise the limit in between.
std::atomic<int> limit_of_new_threads{0};
thread_local int limit_of_this_thread = -1; // -1: not yet taken from the above

int limit_here() {
  if (limit_of_this_thread < 0)
    limit_of_this_thread = limit_of_new_threads.load(std::memory_order_relaxed);
  return limit_of_this_thread;
}

void take_chunks(Share& share, int64_t bite, ChunkFunction function, void* context, int thread) {
  // The plain load spares finished shares the write of a failing fetch_add.
  while (share.next.load(std::memory_order_relaxed) < share.end) {
    const int64_t begin = share.next.fetch_add(bite, std::memory_order_relaxed);
    if (begin >= share.end)
      return;
    function(context, begin, std::min(begin + bite, share.end), thread);
  }
}

// Raises the team size for one region. Only for limits above OpenMP's own, because libgomp grows
// and shrinks its pool of threads for it.
class RaisedTeam {
public:
  explicit RaisedTeam(int threads) : before_(omp_get_max_threads()), raised_(threads > before_) {
    if (raised_)
      omp_set_num_threads(threads);
  }
  ~RaisedTeam() {
    if (raised_)
      omp_set_num_threads(before_);
  }
  RaisedTeam(const RaisedTeam&) = delete;
  RaisedTeam& operator=(const RaisedTeam&) = delete;

private:
  int before_;
  bool raised_;
};

// The stack that libgomp gives its threads; 0 for the system's default.
size_t team_stack_bytes() {
  for (const char* name : {"OMP_STACKSIZE", "GOMP_STACKSIZE"}) {
    const char* text = std::getenv(name);
    if (text == nullptr)
      continue;
    char* rest;
    const unsigned long long number = std::strtoull(text, &rest, 10);
    rest += std::strspn(rest, " ");
    const int unit = *rest ? *rest & ~0x20 : 'K'; // upper case
    const int shift = unit == 'B' ? 0 : unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : -1;
    if (number != 0 && shift >= 0)
      return size_t(number) << shift;
  }
  return 0;
}

// Whether the system has `count` more threads to give. They live side by side for a moment.
bool can_create_threads(int count) {
  static const size_t stack_bytes = team_stack_bytes();
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  if (stack_bytes != 0)
    pthread_attr_setstacksize(&attributes, stack_bytes);
  std::mutex gate;
  pthread_t threads[kMaxThreads];
  int created = 0;
  gate.lock();
  const auto wait = [](void* gate) -> void* {
    const std::lock_guard<std::mutex> passed(*static_cast<std::mutex*>(gate));
    return nullptr;
  };
  while (created < count && pthread_create(&threads[created], &attributes, wait, &gate) == 0)
    ++created;
  gate.unlock();
  pthread_attr_destroy(&attributes);
  for (int thread = 0; thread < created; ++thread)
    pthread_join(threads[thread], nullptr);
  return created == count;
}

// libgomp ends the process where it cannot create a thread, so whether it can is tried before the
// calling thread starts a larger team than it had. (Each thread that starts teams has its own.)
bool can_start_team(int threads) {
  static thread_local int largest_team = 1;
  if (threads <= largest_team)
    return true;
  if (!can_create_threads(std::min(threads - largest_team, kMaxThreads)))
    return false;
  largest_team = threads;
  return true;
}

} // namespace

void configure_threads_at_import() {
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork(nullptr, nullptr, [] { forked_child.store(true, std::memory_order_relaxed); });
  });
  constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
  if (const auto count = environment_integer("DLKERNELS_NUM_THREADS", 1))
    set_num_threads(static_cast<int>(std::min(*count, kMaxInt)));
}

void parallel_for(int64_t chunk_count, int64_t work_elems, ChunkFunction function, void* context) {
  if (chunk_count <= 0)
    return;
  const int64_t available = work_elems < kGrainElems ? 1 : thread_count();
  const int participants = static_cast<int>(std::min(available, chunk_count));
  if (participants <= 1 || !can_start_team(std::max(limit_here(), omp_get_max_threads()))) {
    function(context, 0, chunk_count, 0);
    return;
  }

  Share shares[kMaxThreads];
  const int64_t share_chunks = chunk_count / participants;
  const int64_t larger_shares = chunk_count % participants; // these have one chunk more
  int64_t begin = 0;
  for (int thread = 0; thread < participants; ++thread) {
    const int64_t end = begin + share_chunks + (thread < larger_shares ? 1 : 0);
    shares[thread].next.store(begin, std::memory_order_relaxed);
    shares[thread].end = end;
    begin = end;
  }
  const int64_t bite = std::max<int64_t>(1, share_chunks / kBitesPerShare);

  const RaisedTeam raised(limit_here());
  // The team may be larger than `participants` (the rest find nothing to do) or smaller (the shares
  // of those that are missing are taken by the others).
#pragma omp parallel
  {
    const int thread = omp_get_thread_num();
    if (thread < participants) {
      for (int turn = 0; turn < participants; ++turn)
        take_chunks(shares[(thread + turn) % participants], bite, function, context, thread);
    }
  }
}

int thread_count() {
  if (in_forked_child() || omp_in_parallel())
    return 1;
  const int limit = limit_here();
  return std::clamp(limit > 0 ? limit : omp_get_max_threads(), 1, kMaxThreads);
}

void set_num_threads(int count, bool new_threads_too) {
  DLK_CHECK(count >= 0, "set_num_threads: count: expected at least 0, got ", count);
  limit_of_this_thread = count;
  if (new_threads_too)
    limit_of_new_threads.store(count, std::memory_order_relaxed);
}

int num_threads_limit() {
  return limit_here();
}

bool in_forked_child() {
  return forked_child.load(std::memory_order_relaxed);
}

} // namespace dlk::runtime
