// Optimizer steps: over lists of arrays, and over the tensors of a ParameterTable.
#include "bindings/bind.h"
#include "bindings/parameter_table.h"

#include <pybind11/stl.h>

namespace dlk {
namespace {

// One step of a rule. `params[i]`, whose gradient is `grads[i]` (None: left as it is), has the
// states `states[i]`, a tuple in the rule's order with None for those it does not keep, and is
// updated with the numbers `settings[setting_of[i]]`. Everything is checked before anything is
// written.
void optimizer_step(const std::string& kernel, const std::string& operation,
                    const std::vector<std::string>& slots, const py::list& params,
                    const py::list& grads, const py::list& states, const py::list& setting_of,
                    const py::list& settings) {
  const OptimizerNames names{operation, slots};
  OptimizerStep step(names);
  for (py::handle numbers : settings)
    step.add_setting(py::reinterpret_borrow<py::tuple>(numbers));
  for (size_t index = 0; index < params.size(); ++index) {
    if (grads[index].is_none())
      continue;
    const py::tuple own_states = states[index];
    PyObject* own[kOptimizerSlots] = {};
    for (size_t slot = 0; slot < slots.size(); ++slot)
      own[slot] = py::object(own_states[slot]).ptr();
    step.add(params[index], grads[index], own, setting_of[index].cast<int32_t>(), index);
  }
  step.run(optimizer_kernel(kernel), false);
}

} // namespace

void bind_optim(py::module_& m) {
  m.def("optimizer_step", &optimizer_step);
  m.def("torch_handles_available", &torch_handles_available);
  py::class_<ParameterTable>(m, "ParameterTable")
      .def(py::init<const std::string&, const std::string&, const std::vector<std::string>&,
                    const std::vector<std::string>&, const py::list&, const py::list&,
                    const py::dict&, const py::list&, bool>())
      .def("step", &ParameterTable::step);
}

} // namespace dlk
