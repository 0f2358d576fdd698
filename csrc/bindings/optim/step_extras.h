#pragma once

#include "bindings/made_by_init.h"

namespace dlk {

// What a step does besides its rule, and what it found. Python has it as `_core.StepExtras`.
struct StepExtras : MadeByInit {
  double unscale = 1;        // factor of the gradients
  double max_norm = -1;      // clips their norm; negative: does not
  double average_weight = 0; // of the parameter in its average
  bool write_back = false, zero_grads = false;
  bool average_copies = false;  // the average starts as the parameter
  bool skips_nonfinite = false; // a gradient that is not finite skips the step
  bool is_skipped = false;      // it is skipped; the gradients are finished all the same
  double norm = 0;
  bool norm_is_double = false; // else float32

  bool writes_gradients() const { return write_back || zero_grads; }
  bool may_skip() const { return is_skipped || skips_nonfinite; }
};

} // namespace dlk
