// What each file of bindings adds to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace dlk {

void bind_losses(pybind11::module_& module);
void bind_elementwise_losses(pybind11::module_& module);
void bind_activations(pybind11::module_& module);
void bind_norm(pybind11::module_& module);
void bind_dropout(pybind11::module_& module);
void bind_image(pybind11::module_& module);
void bind_optim(pybind11::module_& module);
void bind_torch_state(pybind11::module_& module);
void bind_exporter(pybind11::module_& module); // of tensor_make.cpp

} // namespace dlk
