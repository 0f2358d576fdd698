// The probability of a dropout, as the kernels take it.
#pragma once

#include "bindings/call.h"

#include <cmath>

namespace dlk {

// How many of 65536 random numbers keep an element.
struct Probability {
  double keep;    // 1 - p
  int64_t chosen; // in 65536
  uint16_t limit() const { return static_cast<uint16_t>(chosen > 0 ? chosen - 1 : 0); }
};

inline Probability probability_of(double p, const char* operation) {
  DLK_CHECK(p >= 0 && p <= 1, operation, ": p: expected a probability in [0, 1], got ", p);
  return {1 - p, static_cast<int64_t>(std::nearbyint((1 - p) * 65536))};
}

// The factor of what is kept, 1 / (1 - p), divided in the computing type as torch does; 0 where
// nothing is kept.
inline double factor_of(const Probability& probability, DType dtype) {
  if (probability.chosen == 0)
    return 0;
  return dtype == DType::float64 ? 1 / probability.keep : 1 / static_cast<float>(probability.keep);
}

} // namespace dlk
