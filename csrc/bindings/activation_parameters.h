// The numbers of an activation, by the names that the fronts have for them.
#pragma once

#include "bindings/call.h"

#include <cstring>

namespace dlk {

// Raises unless the type that arrays of `dtype` are computed in can hold them. `activation` is the
// name in DLK_ACTIVATIONS.
inline void check_parameters(const double* parameters, DType dtype, const char* operation,
                             const char* activation) {
  struct Row {
    const char *activation, *names[2];
    bool divides; // by the first
  };
  static constexpr Row rows[] = {{"hardtanh", {"min_val", "max_val"}, false},
                                 {"threshold", {"threshold", "value"}, false},
                                 {"leaky_relu", {"negative_slope", nullptr}, false},
                                 {"elu", {"alpha", nullptr}, false},
                                 {"celu", {"alpha", nullptr}, true},
                                 {"softplus", {"beta", "threshold"}, true}};
  if (parameters[0] == 0 && parameters[1] == 0)
    return;
  for (const Row& row : rows)
    if (std::strcmp(row.activation, activation) == 0)
      for (int which = 0; which < 2 && row.names[which]; ++which)
        check_holds(parameters[which], dtype, operation, row.names[which],
                    row.divides && which == 0);
}

} // namespace dlk
