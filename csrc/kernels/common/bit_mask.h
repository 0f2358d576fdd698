// A mask of one bit per element, in memory order, whose runs may begin and end inside a byte.
#pragma once

#include "simd/loops.h"

namespace dlk::DLK_ISA {

// Appends the bits of one run. The bytes it shares with its neighbours were zero before all runs.
struct BitWriter {
  uint8_t* next;
  uint32_t pending = 0;
  int fill;
  bool shared; // the byte at `next` holds bits of the run before

  DLK_INLINE BitWriter(uint8_t* mask, int64_t bit)
      : next(mask + bit / 8), fill(int(bit % 8)), shared(fill != 0) {}

  DLK_INLINE void put_byte() {
    if (shared)
      __atomic_fetch_or(next, uint8_t(pending), __ATOMIC_RELAXED);
    else
      *next = uint8_t(pending);
    shared = false;
    ++next;
    pending >>= 8;
    fill -= 8;
  }
  DLK_INLINE void append(uint32_t bits, int64_t count) {
    pending |= bits << fill;
    fill += int(count);
    if (fill >= 8)
      put_byte();
    if (fill >= 8)
      put_byte();
  }
  DLK_INLINE void finish() {
    if (fill > 0)
      __atomic_fetch_or(next, uint8_t(pending), __ATOMIC_RELAXED);
  }
};

// Up to 16 bits from `bit` on; what is above them is undefined.
DLK_INLINE uint32_t read_bits(const uint8_t* mask, int64_t bit, int64_t count) {
  const uint8_t* p = mask + bit / 8;
  const int64_t offset = bit % 8, last = offset + count;
  uint32_t bits = p[0];
  if (last > 8)
    bits |= uint32_t(p[1]) << 8;
  if (last > 16)
    bits |= uint32_t(p[2]) << 16;
  return bits >> offset;
}

template <class T> constexpr int64_t lanes_in(WholeVec) {
  return Vec<Compute<T>>::kLanes;
}
template <class T> constexpr int64_t lanes_in(StreamedVec) {
  return Vec<Compute<T>>::kLanes;
}
template <class T> DLK_INLINE int64_t lanes_in(PartialVec lanes) {
  return lanes.count;
}

} // namespace dlk::DLK_ISA
