// Optimizer steps: over lists of arrays, and over the tensors of a ParameterTable.
#include "bindings/bind.h"
#include "bindings/parameter_table.h"

#include <pybind11/stl.h>

namespace dlk {
namespace {

// One step of a rule. `params[i]`, whose gradient is `grads[i]` (None: left as it is), has the
// states `states[i]`, and is updated with the numbers `settings[setting_of[i]]`. A tuple of states
// has the slots in the rule's order, with None for those that are not kept; then, if some are in a
// format of their own, the scales of each slot, and the parameter's low half. `signed_slots`: which
// slots have a sign, or empty; `rounding`: for each setting None or (seed, step). Everything is
// checked before anything is written.
void optimizer_step(const std::string& kernel, const std::string& operation,
                    const std::vector<std::string>& slots, const py::list& params,
                    const py::list& grads, const py::list& states, const py::list& setting_of,
                    const py::list& settings, const std::vector<bool>& signed_slots,
                    const py::list& rounding) {
  const OptimizerNames names{operation, slots, signed_slots};
  OptimizerStep step(names);
  for (size_t setting = 0; setting < settings.size(); ++setting)
    step.add_setting(settings[setting], rounding[setting]);
  for (size_t index = 0; index < params.size(); ++index) {
    if (grads[index].is_none())
      continue;
    const py::tuple own_states = states[index];
    PyObject* own[kOptimizerStates] = {};
    const size_t count = slots.size();
    for (size_t slot = 0; slot < count; ++slot)
      own[slot] = PyTuple_GET_ITEM(own_states.ptr(), Py_ssize_t(slot));
    if (own_states.size() > count) {
      for (size_t slot = 0; slot < count; ++slot)
        own[kOptimizerScales + slot] = PyTuple_GET_ITEM(own_states.ptr(), Py_ssize_t(count + slot));
      own[kOptimizerLow] = PyTuple_GET_ITEM(own_states.ptr(), Py_ssize_t(2 * count));
    }
    step.add(params[index], grads[index], own, setting_of[index].cast<int32_t>(), index, index);
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
                    const py::dict&, const py::list&, bool, const std::vector<bool>&,
                    const std::vector<bool>&>())
      .def("step", &ParameterTable::step);
}

} // namespace dlk
