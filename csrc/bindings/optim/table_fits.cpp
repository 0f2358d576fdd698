// ParameterTable: whether parameters, states and groups are still those it was made from.
#include "bindings/optim/parameter_table.h"

#include <algorithm>

namespace dlk {
namespace {

// A number that every change of a dict changes, where Python has one; else 0.
uint64_t version_of([[maybe_unused]] PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#else
  return 0;
#endif
}

} // namespace

bool ParameterTable::fits(const py::list& groups, const py::list& used,
                          const py::dict& state) const {
  if (groups.size() != group_ends_.size() || !used_.equal(used) ||
      size_t(PyDict_GET_SIZE(state.ptr())) * 2 != state_order_.size())
    return false;
  size_t index = 0;
  for (size_t group = 0; group < group_ends_.size(); ++group) {
    PyObject* params = PyList_GET_ITEM(groups.ptr(), Py_ssize_t(group));
    if (!PyList_Check(params) || size_t(PyList_GET_SIZE(params)) != group_ends_[group] - index)
      return false;
    if (!std::equal(params_.data() + index, params_.data() + group_ends_[group],
                    PySequence_Fast_ITEMS(params)))
      return false;
    index = group_ends_[group];
  }
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0;
  size_t entry = 0;
  while (PyDict_Next(state.ptr(), &position, &key, &value)) {
    if (state_order_[entry] != key || state_order_[entry + 1] != value)
      return false;
    entry += 2;
  }
  return true;
}

bool ParameterTable::has_its_states(const Row& row, PyObject* used) const {
  const auto is_same = [&](PyObject* name, const py::object& entry) {
    return entry && PyDict_GetItemWithError(row.own_state.ptr(), name) == entry.ptr();
  };
  const py::object* entry = &entries_[row.first + 1];
  for (size_t k = 0; k < slot_count_; ++k, ++entry) {
    PyObject* name = row.coded[k] ? PyList_GET_ITEM(code_names_.ptr(), Py_ssize_t(k))
                                  : PyTuple_GET_ITEM(used, Py_ssize_t(k));
    if (name != Py_None && !is_same(name, *entry))
      return false;
  }
  for (size_t k = 0; k < format_count_; ++k, ++entry)
    if (*entry && !is_same(PyList_GET_ITEM(format_names_.ptr(), Py_ssize_t(k)), *entry))
      return false;
  for (size_t k = 0; k < scalar_count_; ++k, ++entry)
    if (!is_same(PyList_GET_ITEM(scalar_names_.ptr(), Py_ssize_t(k)), *entry))
      return false;
  return true;
}

// Whether each parameter's dict is as it was; one that has not changed is not looked into.
void ParameterTable::check_states() {
  size_t index = 0;
  for (size_t group = 0; group < group_ends_.size(); ++group) {
    PyObject* names = PyList_GET_ITEM(used_.ptr(), Py_ssize_t(group));
    for (; index < group_ends_[group]; ++index) {
      if (index + 16 < rows_.size())
        __builtin_prefetch(rows_[index + 16].own_state.ptr());
      Row& row = rows_[index];
      const uint64_t version = row.own_state ? version_of(row.own_state.ptr()) : 0;
      if (version && version == row.own_version)
        continue;
      row.has_states = has_its_states(row, names);
      row.own_version = version;
    }
  }
}

} // namespace dlk
