// ParameterTable: the step.
#include "bindings/optim/parameter_table.h"

#include "runtime/threads.h"

namespace dlk {

TorchTensor ParameterTable::grad_of(const Live& live) const {
  return live.grad ? TorchTensor(live.grad) : handles_[live.row->first].grad();
}

// Tells autograd of what a step writes, but for gradients.
void ParameterTable::count_versions(const Live& live) const {
  const size_t first = live.row->first + (live.has_grad ? 0 : slot_count_); // the average
  const size_t last = live.has_grad ? first + per_row_ : first + 1;
  if (uses_handles_) {
    for (size_t index = first; index < last; ++index)
      handles_[index].increment_version();
    return;
  }
  py::list written;
  for (size_t index = first; index < last; ++index)
    if (entries_[index])
      written.append(entries_[index]);
  py::module_::import("torch.autograd.graph").attr("increment_version")(written);
}

void ParameterTable::count_gradient_versions() const {
  py::list others;
  for (const Live& live : live_)
    if (live.is_live && live.has_grad && live.is_flat)
      grad_of(live).increment_version();
    else if (live.is_live && live.has_grad)
      others.append(entries_[live.row->first].attr("grad"));
  if (!others.empty())
    py::module_::import("torch.autograd.graph").attr("increment_version")(others);
}

bool ParameterTable::add_through_python(OptimizerStep& step, const Live& live,
                                        const StepExtras& extras) const {
  const Row& row = *live.row;
  const py::object* entry = &entries_[row.first];
  const py::object grad = live.has_grad ? py::object(entry[0].attr("grad")) : py::none();
  if (live.has_grad && !is_plain_tensor(grad))
    return false;
  PyObject* states[kOptimizerStates] = {};
  for (size_t k = 0; k < slot_count_; ++k)
    if (live.has_grad || names_.stream(k) == kAverageStream) {
      states[k] = entry[1 + k].ptr();
      if (format_count_)
        states[kOptimizerScales + k] = entry[1 + slot_count_ + k].ptr();
    }
  if (format_count_)
    states[kOptimizerLow] = entry[1 + 2 * slot_count_].ptr();
  step.own(grad);
  step.add(entry[0], grad, states, live.setting, extras.writes_gradients(), size_t(row.index),
           number_of(row));
  return true;
}

void ParameterTable::write_scalars() {
  const auto write = [](void* data, int64_t begin, int64_t end, int) noexcept {
    const auto& table = *static_cast<const ParameterTable*>(data);
    for (int64_t index = begin; index < end; ++index) {
      const Live& live = table.live_[size_t(index)];
      if (!live.is_live || !live.has_grad)
        continue;
      live.row->fresh = false;
      for (size_t k = 0; k < table.scalar_count_; ++k) {
        const double next = table.settings_[size_t(live.setting)].next[k];
        if (live.single >> k & 1)
          *static_cast<float*>(live.scalars[k]) = float(next);
        else
          *static_cast<double*>(live.scalars[k]) = next;
      }
    }
  };
  const int64_t count = int64_t(rows_.size());
  runtime::parallel_for(count, count * kElemsPerRow, write, this);
}

py::object ParameterTable::step(const py::list& groups, const py::list& used, const py::dict& state,
                                const py::list& settings, StepExtras& extras) {
  const Lock lock(*this);
  if (!lock.is_held)
    return py::bool_(false);
  settings_.clear();
  for (const py::handle setting : settings)
    settings_.push_back(read_setting(py::reinterpret_borrow<py::tuple>(setting)));
  OptimizerStep step(names_);
  std::vector<Setting> missing;
  if (!fits(groups, used, state) || !collect(step, missing, extras))
    return py::bool_(false);
  if (!missing.empty()) {
    py::list result;
    for (const Setting& setting : missing)
      result.append(asked(setting));
    return std::move(result);
  }
  for (const Setting& setting : settings_)
    step.add_setting(setting.numbers);
  for (const Live& live : live_)
    if (live.is_live && !live.is_flat && !add_through_python(step, live, extras))
      return py::bool_(false);
  step.run(kernel_, keeps_gil(), extras);
  if (extras.writes_gradients())
    count_gradient_versions();
  if (extras.is_skipped)
    return py::bool_(true);
  if (extras.may_skip())
    for (const Live& live : live_)
      if (live.is_live)
        count_versions(live);
  write_scalars();
  return py::bool_(true);
}

} // namespace dlk
