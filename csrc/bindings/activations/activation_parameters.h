// The numbers of an activation, by the names that the fronts have for them.
#pragma once

#include "bindings/arguments.h"
#include "bindings/call.h"

#include <cstring>

namespace dlk {

struct ActivationParameters {
  const char *activation, *names[2];
  bool divides; // by the first
};
constexpr ActivationParameters kActivationParameters[] = {
    {"hardtanh", {"min_val", "max_val"}, false},
    {"threshold", {"threshold", "value"}, false},
    {"leaky_relu", {"negative_slope", nullptr}, false},
    {"elu", {"alpha", nullptr}, false},
    {"celu", {"alpha", nullptr}, true},
    {"softplus", {"beta", "threshold"}, true}};

// A number as Python gives it.
inline double activation_parameter(py::handle number, int which, const char* operation,
                                   const char* activation) {
  if (PyFloat_CheckExact(number.ptr()))
    return PyFloat_AS_DOUBLE(number.ptr());
  const char* name = nullptr;
  for (const ActivationParameters& row : kActivationParameters)
    if (std::strcmp(row.activation, activation) == 0)
      name = row.names[which];
  return as_number(number, operation, name ? name : "parameter");
}

// Raises unless the type that arrays of `dtype` are computed in can hold them. `activation` is the
// name in DLK_ACTIVATIONS.
inline void check_parameters(const double* parameters, DType dtype, const char* operation,
                             const char* activation) {
  if (parameters[0] == 0 && parameters[1] == 0)
    return;
  for (const ActivationParameters& row : kActivationParameters)
    if (std::strcmp(row.activation, activation) == 0)
      for (int which = 0; which < 2 && row.names[which]; ++which)
        check_holds(parameters[which], dtype, operation, row.names[which],
                    row.divides && which == 0);
}

} // namespace dlk
