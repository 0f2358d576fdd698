// Optimizer steps: over lists of arrays, and over the tensors of a ParameterTable.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/optim/parameter_table.h"

#include <pybind11/stl.h>

namespace dlk {
namespace {

// One step of a rule. `params[i]`, whose gradient is `grads[i]` (None: left as it is), has the
// states `states[i]`, and is updated with the numbers `settings[setting_of[i]]`. A tuple of states
// has the slots in the rule's order, with None for those that are not kept, and the average if
// has_average; then, if some are in a format of their own, the scales of each of them, and the
// parameter's low half. `signed_slots`: which slots have a sign, or empty; `rounding`: for each
// setting None or (seed, step). Everything is checked before anything is written.
void optimizer_step(const std::string& kernel, const std::string& operation,
                    const std::vector<std::string>& slots, bool has_average, const py::list& params,
                    const py::list& grads, const py::list& states, const py::list& setting_of,
                    const py::list& settings, const std::vector<bool>& signed_slots,
                    const py::list& rounding, StepExtras& extras) {
  const OptimizerNames names{operation, slots, signed_slots, has_average};
  SharedMemory memory;
  memory.allow_as("params"); // a gradient is read before its parameter is written
  OptimizerStep step(names, &memory);
  for (size_t setting = 0; setting < settings.size(); ++setting)
    step.add_setting(settings[setting], rounding[setting]);
  for (size_t index = 0; index < params.size(); ++index) {
    const py::tuple own_states = states[index];
    if (own_states.empty()) // left as it is
      continue;
    PyObject* own[kOptimizerStates] = {};
    const size_t count = slots.size();
    for (size_t slot = 0; slot < count; ++slot)
      own[slot] = PyTuple_GET_ITEM(own_states.ptr(), Py_ssize_t(slot));
    if (own_states.size() > count) {
      for (size_t slot = 0; slot < count; ++slot)
        own[kOptimizerScales + slot] = PyTuple_GET_ITEM(own_states.ptr(), Py_ssize_t(count + slot));
      own[kOptimizerLow] = PyTuple_GET_ITEM(own_states.ptr(), Py_ssize_t(2 * count));
    }
    step.add(params[index], grads[index], own, setting_of[index].cast<int32_t>(),
             extras.writes_gradients(), index, index);
  }
  const std::string found = memory.find();
  DLK_CHECK(found.empty(), operation, ": ", found);
  step.run(rule_kernel(kernel), false, extras);
}

// Refuses what a step would refuse of parameters.
void check_parameters(const std::string& operation, const py::list& params) {
  SharedMemory memory;
  for (size_t index = 0; index < params.size(); ++index) {
    const std::string argument = text("params[", index, "]");
    const TensorView view = output_view_of(params[index], operation.c_str(), argument.c_str());
    check_floating(view, operation.c_str(), argument.c_str());
    memory.add(view, "params", index, true);
  }
  const std::string found = memory.find();
  DLK_CHECK(found.empty(), operation, ": ", found);
}

} // namespace

DLK_BINDINGS(m) {
  m.def("optimizer_step", &optimizer_step,
        "One step of a rule over all parameters, in one parallel region.");
  m.def("check_parameters", &check_parameters,
        "Refuses what optimizer_step would refuse of parameters.");
  py::class_<StepExtras>(m, "StepExtras")
      .def(py::init(&make_by_init<StepExtras>))
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
  m.def("torch_handles_available", &torch_handles_available,
        "Whether tensors can be held without their Python objects.");
  py::class_<ParameterTable>(m, "ParameterTable")
      .def(py::init(
          &make_by_init<ParameterTable, const std::string&, const std::string&,
                        const std::vector<std::string>&, bool, const std::vector<std::string>&,
                        const py::list&, const py::list&, const py::dict&, const py::list&, bool,
                        const std::vector<bool>&, const std::vector<bool>&>))
      .def("expected", &ParameterTable::expected)
      .def("step", &ParameterTable::step);
}

} // namespace dlk
