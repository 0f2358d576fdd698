// The memory roofs: how fast this machine can read, update in place, and copy, with nothing to
// compute. Built and called by roofline.py; it stands apart from the library so that the yardstick
// shares no code with what it measures.
//
// Two buffers on huge pages, touched once by the threads that will use them, each thread always
// on the same contiguous part: page faults and TLB misses are kept out of the figures, because a
// roof is what is possible, not what is usual.

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <immintrin.h>
#include <omp.h>

namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr std::int64_t kLineFloats = 16;

float* source = nullptr;
float* target = nullptr;
std::int64_t count = 0;
float sink = 0; // keeps the read pass from being optimised away

struct Part {
  std::int64_t begin, end;
};

// This thread's share, in whole cache lines. `count` is a multiple of a line.
Part my_part() {
  const std::int64_t lines = count / kLineFloats;
  const std::int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
  return {lines * thread / threads * kLineFloats, lines * (thread + 1) / threads * kLineFloats};
}

// Four independent sums, so that the additions never wait for each other.
float read_pass() {
  float total = 0;
#pragma omp parallel reduction(+ : total)
  {
    const Part part = my_part();
    const std::int64_t quarter = (part.end - part.begin) / 4;
    const float* first = source + part.begin;
    float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
    for (std::int64_t i = 0; i < quarter; ++i) {
      a += first[i];
      b += first[i + quarter];
      c += first[i + 2 * quarter];
      d += first[i + 3 * quarter];
    }
    total += a + b + c + d;
  }
  return total;
}

void in_place_pass() {
#pragma omp parallel
  {
    const Part part = my_part();
#pragma omp simd
    for (std::int64_t i = part.begin; i < part.end; ++i)
      source[i] = -source[i];
  }
}

void copy_pass() {
#pragma omp parallel
  {
    const Part part = my_part();
    const float* __restrict from = source;
    float* __restrict to = target;
#pragma omp simd
    for (std::int64_t i = part.begin; i < part.end; ++i)
      to[i] = from[i];
  }
}

void nt_copy_pass() {
#pragma omp parallel
  {
    const Part part = my_part();
    for (std::int64_t i = part.begin; i < part.end; i += kLineFloats) {
#if defined(__AVX512F__)
      _mm512_stream_ps(target + i, _mm512_load_ps(source + i));
#elif defined(__AVX__)
      _mm256_stream_ps(target + i, _mm256_load_ps(source + i));
      _mm256_stream_ps(target + i + 8, _mm256_load_ps(source + i + 8));
#else
      for (int k = 0; k < kLineFloats; k += 4)
        _mm_stream_ps(target + i + k, _mm_load_ps(source + i + k));
#endif
    }
    _mm_sfence();
  }
}

float* map_floats(std::int64_t floats) {
  const std::size_t bytes =
      (floats * sizeof(float) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* memory = std::aligned_alloc(kHugePageBytes, bytes);
  if (memory)
    madvise(memory, bytes, MADV_HUGEPAGE);
  return static_cast<float*>(memory);
}

} // namespace

extern "C" {

// Makes the buffers. Returns 0, or 1 where there is not enough memory.
int roof_open(std::int64_t floats) {
  count = floats / kLineFloats * kLineFloats;
  source = map_floats(count);
  target = map_floats(count);
  if (!source || !target)
    return 1;
#pragma omp parallel
  {
    const Part part = my_part();
    for (std::int64_t i = part.begin; i < part.end; ++i)
      source[i] = target[i] = 1;
  }
  return 0;
}

void roof_close() {
  std::free(source);
  std::free(target);
  source = target = nullptr;
}

// One pass of each kind; the caller times it.
void roof_read() {
  sink = read_pass();
}
void roof_in_place() {
  in_place_pass();
}
void roof_copy() {
  copy_pass();
}
void roof_nt_copy() {
  nt_copy_pass();
}
}
