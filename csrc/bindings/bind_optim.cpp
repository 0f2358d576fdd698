// Optimizer steps: over lists of arrays, and over the tensors of a ParameterTable.
#include "bindings/bind.h"
#include "bindings/parameter_table.h"

#include <pybind11/stl.h>

namespace dlk {
namespace {

// One step of a rule. `params[i]`, whose gradient is `grads[i]` (None: left as it is), has the
// states `states[i]`, a tuple in the rule's order with None for those it does not keep, and at last
// its average if has_average, and is updated with the numbers `settings[setting_of[i]]`. Everything
// is checked before anything is written.
void optimizer_step(const std::string& kernel, const std::string& operation,
                    const std::vector<std::string>& slots, bool has_average,
                    const py::list& params, const py::list& grads, const py::list& states,
                    const py::list& setting_of, const py::list& settings, StepExtras& extras) {
  const OptimizerNames names{operation, slots, has_average};
  OptimizerStep step(names);
  for (py::handle numbers : settings)
    step.add_setting(py::reinterpret_borrow<py::tuple>(numbers));
  for (size_t index = 0; index < params.size(); ++index) {
    const py::tuple own_states = states[index];
    if (own_states.empty()) // left as it is
      continue;
    PyObject* own[kOptimizerSlots + 1] = {};
    for (size_t slot = 0; slot < slots.size(); ++slot)
      own[slot] = py::object(own_states[slot]).ptr();
    step.add(params[index], grads[index], own, setting_of[index].cast<int32_t>(),
             extras.writes_gradients(), index);
  }
  step.run(optimizer_kernel(kernel), false, extras);
}

} // namespace

void bind_optim(py::module_& m) {
  m.def("optimizer_step", &optimizer_step);
  py::class_<StepExtras>(m, "StepExtras")
      .def(py::init<>())
      .def_readwrite("unscale", &StepExtras::unscale)
      .def_readwrite("max_norm", &StepExtras::max_norm)
      .def_readwrite("average_weight", &StepExtras::average_weight)
      .def_readwrite("average_copies", &StepExtras::average_copies)
      .def_readwrite("write_back", &StepExtras::write_back)
      .def_readwrite("zero_grads", &StepExtras::zero_grads)
      .def_readwrite("skips_nonfinite", &StepExtras::skips_nonfinite)
      .def_readwrite("is_skipped", &StepExtras::is_skipped)
      .def_readonly("norm", &StepExtras::norm)
      .def_readonly("norm_is_double", &StepExtras::norm_is_double);
  m.def("torch_handles_available", &torch_handles_available);
  py::class_<ParameterTable>(m, "ParameterTable")
      .def(py::init<const std::string&, const std::string&, const std::vector<std::string>&,
                    bool, const std::vector<std::string>&, const py::list&,
                    const py::list&, const py::dict&, const py::list&, bool>())
      .def("step", &ParameterTable::step);
}

} // namespace dlk
