// States of optimizers from one format to another: rules that copy, so that they go through the
// same blocks as a step's do.
//
//   decode_state   p = s
//   encode_state   s = p
//
// Bytes per element: those of both, once. Error: none to float32, bfloat16 and float64 from what is
// narrower; else one rounding of the format (simd/dynamic_map.h, simd/split_float.h).
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {
namespace {

template <class C> struct DecodeState {
  explicit DecodeState(const double*) {}
  template <int> DLK_INLINE void update(Vec<C>& p, Vec<C>, Vec<C>* s) const { p = s[0]; }
};

template <class C> struct EncodeState {
  explicit EncodeState(const double*) {}
  template <int kMask> DLK_INLINE void update(Vec<C>& p, Vec<C>, Vec<C>* s) const { s[0] = p; }
};

} // namespace

void decode_state(OptimizerArgs& args) noexcept {
  run_optimizer<DecodeState, 0b1>(args);
}

void encode_state(OptimizerArgs& args) noexcept {
  run_optimizer<EncodeState, 0b1>(args);
}

} // namespace dlk::DLK_ISA
