// Work is cut into chunks whose bounds depend on the data alone; threads only decide who does
// which.
//
// Rules (libgomp): no num_threads() clause ever, because a change of team size rebuilds its pool;
// serial code that enters no OpenMP region below the grain, inside a parallel region, and in a
// forked child, where libgomp deadlocks.
#pragma once

#include <cstdint>

namespace dlk::runtime {

// Elements of float work below which starting a team costs more than it saves.
constexpr int64_t kGrainElems = 32768;

// Handles chunks [begin, end); `thread` is in [0, thread_count()) and unique while it runs.
using ChunkFunction = void (*)(void* context, int64_t begin, int64_t end, int thread) noexcept;

// Calls `function` over all chunks of [0, chunk_count). `work_elems` is the size of the whole job
// in elements of float work, compared with the grain. Each thread starts with its own contiguous
// share and then takes chunks from the slower ones, so a busy core does not hold up the rest.
void parallel_for(int64_t chunk_count, int64_t work_elems, ChunkFunction function, void* context);

// Threads that a parallel_for started here may use: the limit of set_num_threads where set, else
// omp_get_max_threads() (so torch.set_num_threads counts too); 1 in a region or a forked child.
// No other thread can change it, so scratch memory sized by it stays large enough.
int thread_count();

// Sets the limit of the calling thread, as omp_set_num_threads does, and with `new_threads_too` of
// every thread that has not called this library yet. 0: follow OpenMP.
void set_num_threads(int count, bool new_threads_too = true);
int num_threads_limit(); // of the calling thread; 0: none set
bool in_forked_child();

// Watches for forks and reads DLKERNELS_NUM_THREADS; throws std::runtime_error on a wrong value.
void configure_threads_at_import();

} // namespace dlk::runtime
