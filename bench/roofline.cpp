// Moves bytes and computes nothing: what the memory of a case can do. Built and called by
// roofline.py; it shares no code with the library that is measured against it.
//
// A pass goes once through several stretches of memory side by side, as a kernel does: a block of
// each in turn. What is read or updated keeps its contents; what is written is filled with zeros,
// past the cache, because an ordinary store first reads the line that it replaces.
//
// Tried, by processor time on a busy machine: blocks of a line, of half a kilobyte and of a page
// (slower than a quarter of a kilobyte); no prefetching (some percent slower); one loop compiled for
// each set of stretches (no difference); a fixed half for each thread (waits for the slower one).

#include <cstddef>
#include <cstdint>
#include <immintrin.h>
#include <omp.h>

namespace {

constexpr std::int64_t kLineBytes = 64;
constexpr std::int64_t kBlockBytes = 4 * kLineBytes;
constexpr std::int64_t kPieceBlocks = 1024; // what a thread takes at a time
constexpr int kAheadBytes = 512;
constexpr int kMaxStretches = 16;

enum Kind : std::int64_t { kRead, kWrite, kUpdate };

struct Stretch {
  char* data;
  std::int64_t bytes;
  Kind kind;
};

#if defined(__AVX512F__)
using Vec = __m512i;
void stream(char* to, Vec value) {
  _mm512_stream_si512(reinterpret_cast<Vec*>(to), value);
}
#elif defined(__AVX__)
using Vec = __m256i;
void stream(char* to, Vec value) {
  _mm256_stream_si256(reinterpret_cast<Vec*>(to), value);
}
#else
using Vec = __m128i;
void stream(char* to, Vec value) {
  _mm_stream_si128(reinterpret_cast<Vec*>(to), value);
}
#endif

// `seen` takes up all that is read, so that the compiler leaves no read out.
void move_block(Kind kind, char* data, Vec& seen) {
  constexpr int kVecBytes = sizeof(Vec);
  if (kind == kWrite) {
    for (int byte = 0; byte < kBlockBytes; byte += kVecBytes)
      stream(data + byte, Vec{});
    return;
  }
  for (int byte = 0; byte < kBlockBytes; byte += kLineBytes)
    _mm_prefetch(data + byte + kAheadBytes, _MM_HINT_T0);
  for (int byte = 0; byte < kBlockBytes; byte += kVecBytes) {
    Vec& place = *reinterpret_cast<Vec*>(data + byte);
    Vec value = place;
    if (kind == kUpdate) {
      asm volatile("" : "+m"(place)); // or storing what was just loaded would be left out
      place = value;
    } else {
      seen ^= value;
    }
  }
}

} // namespace

extern "C" {

// One pass; whole lines, and whole blocks of the shortest stretch. The length of any other is about
// a multiple of it. Returns a digest of what was read.
std::int64_t roof_pass(const Stretch* stretches, std::int64_t count) {
  struct Range {
    char* data;
    std::int64_t bytes, times;
    Kind kind;
  } ranges[kMaxStretches];
  if (count < 1 || count > kMaxStretches)
    return -1;
  std::int64_t shortest = INT64_MAX;
  for (std::int64_t i = 0; i < count; ++i) {
    const Stretch& stretch = stretches[i];
    const std::int64_t skip = -reinterpret_cast<std::intptr_t>(stretch.data) & (kLineBytes - 1);
    const std::int64_t bytes = stretch.bytes < skip ? 0 : stretch.bytes - skip;
    ranges[i] = {stretch.data + skip, bytes, 1, stretch.kind};
    shortest = bytes < shortest ? bytes : shortest;
  }
  std::int64_t blocks = shortest / kBlockBytes;
  for (std::int64_t i = 0; i < count && shortest > 0; ++i) {
    ranges[i].times = (ranges[i].bytes + shortest / 2) / shortest;
    const std::int64_t most = ranges[i].bytes / (ranges[i].times * kBlockBytes);
    blocks = most < blocks ? most : blocks;
  }
  const std::int64_t pieces = (blocks + kPieceBlocks - 1) / kPieceBlocks;
  std::int64_t digest = 0;
#pragma omp parallel reduction(^ : digest) if (pieces > 1)
  {
    Vec seen{};
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      const std::int64_t first = piece * kPieceBlocks;
      const std::int64_t last = blocks - first < kPieceBlocks ? blocks : first + kPieceBlocks;
      char* here[kMaxStretches];
      for (std::int64_t i = 0; i < count; ++i)
        here[i] = ranges[i].data + first * ranges[i].times * kBlockBytes;
      for (std::int64_t block = first; block < last; ++block)
        for (std::int64_t i = 0; i < count; ++i)
          for (std::int64_t k = 0; k < ranges[i].times; ++k, here[i] += kBlockBytes)
            move_block(ranges[i].kind, here[i], seen);
    }
    _mm_sfence();
    digest ^= seen[0];
  }
  return digest;
}
}
