#include "bindings/parameter_table.h"

#include "bindings/exchange.h"

#include <algorithm>

namespace dlk {

bool is_plain(py::handle tensor) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<std::pair<py::object, py::object>>
      kinds;
  const auto& [plain, parameter] =
      kinds
          .call_once_and_store_result([] {
            const py::module_ torch = py::module_::import("torch");
            return std::pair<py::object, py::object>(torch.attr("Tensor"),
                                                     torch.attr("nn").attr("Parameter"));
          })
          .get_stored();
  const py::handle type = reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()));
  return type.is(plain) || type.is(parameter);
}

ParameterTable::ParameterTable(const py::list& groups, const py::list& state_names,
                               const py::dict& state) {
  py::list tensors; // in the order of the handles
  for (size_t group = 0; group < groups.size(); ++group) {
    const py::tuple names = state_names[group];
    state_names_.append(names);
    for (py::handle param : py::list(groups[group])) {
      Row row{};
      row.group = int32_t(group);
      row.index = int32_t(rows_.size() - (group ? group_ends_[group - 1] : 0));
      row.plain = is_plain(param);
      row.param = py::reinterpret_borrow<py::object>(param);
      tensors.append(param);
      if (PyObject* own = PyDict_GetItemWithError(state.ptr(), param.ptr())) {
        row.own_state = py::reinterpret_borrow<py::object>(own);
        for (size_t k = 0; k < names.size(); ++k) {
          PyObject* entry = PyDict_GetItemWithError(own, py::object(names[k]).ptr());
          if (entry && entry != Py_None) {
            row.states[k] = py::reinterpret_borrow<py::object>(entry);
            tensors.append(row.states[k]);
          }
        }
      }
      if (PyErr_Occurred())
        throw py::error_already_set();
      rows_.push_back(std::move(row));
    }
    group_ends_.push_back(rows_.size());
  }
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(state.ptr(), &position, &key, &value))
    state_order_.insert(state_order_.end(), {key, value});

  std::vector<TorchHandle> handles = torch_handles(tensors);
  size_t next = 0;
  for (Row& row : rows_) {
    row.param_handle = std::move(handles[next++]);
    FlatView param;
    row.row_major = flat_view(row.param, param) && is_floating(param.dtype);
    if (row.row_major) {
      row.dtype = param.dtype;
      row.size = param.size;
      row.ndim = param.ndim;
      row.first_dim = shapes_.size();
      shapes_.insert(shapes_.end(), param.shape, param.shape + param.ndim);
    }
    total_elems_ += row.param.attr("numel")().cast<int64_t>();
    for (int k = 0; k < kMaxStates; ++k)
      if (row.states[k])
        row.state_handles[k] = std::move(handles[next++]);
  }
}

bool ParameterTable::fits(const py::list& groups, const py::list& state_names,
                          const py::dict& state) const {
  if (groups.size() != group_ends_.size() || !state_names_.equal(state_names) ||
      size_t(PyDict_GET_SIZE(state.ptr())) * 2 != state_order_.size())
    return false;
  size_t index = 0;
  for (size_t group = 0; group < group_ends_.size(); ++group) {
    PyObject* params = PyList_GET_ITEM(groups.ptr(), Py_ssize_t(group));
    if (!PyList_Check(params) || size_t(PyList_GET_SIZE(params)) != group_ends_[group] - index)
      return false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); ++i)
      if (PyList_GET_ITEM(params, i) != rows_[index++].param.ptr())
        return false;
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

void ParameterTable::look_at(TorchTensor grad, Live& live) const {
  const Row& row = *live.row;
  live.data = nullptr;
  if (!row.row_major)
    return;
  const int64_t* shape = shapes_.data() + row.first_dim;
  live.grad_data = grad.data(row.dtype, row.ndim, shape);
  bool all = live.grad_data;
  for (int k = 0; k < kMaxStates; ++k)
    if (row.states[k]) {
      live.state_data[k] = row.state_handles[k].data(row.dtype, row.ndim, shape);
      all = all && live.state_data[k];
    }
  if (all)
    live.data = row.param_handle.data(row.dtype, row.ndim, shape);
}

// A tensor is a chain of small objects all over memory, each waited for in turn: a tenth of a step
// over thousands.
void ParameterTable::fetch_ahead(size_t index) const {
  const size_t count = rows_.size();
  if (index + 8 < count) {
    const Row& row = rows_[index + 8];
    row.param_handle.fetch();
    __builtin_prefetch(row.own_state.ptr());
    for (const TorchHandle& handle : row.state_handles)
      handle.fetch();
  }
  if (index + 4 < count) {
    const Row& row = rows_[index + 4];
    row.param_handle.fetch_linked();
    for (const TorchHandle& handle : row.state_handles)
      handle.fetch_linked();
  }
  if (index + 2 < count)
    rows_[index + 2].param_handle.grad().fetch();
  if (index + 1 < count)
    rows_[index + 1].param_handle.grad().fetch_linked();
}

bool ParameterTable::refresh(const py::list& groups, const py::list& state_names,
                             const py::dict& state) {
  live_.clear();
  if (!fits(groups, state_names, state))
    return false;
  live_.reserve(rows_.size());
  size_t index = 0;
  for (size_t group = 0; group < group_ends_.size(); ++group) {
    PyObject* names = PyList_GET_ITEM(state_names_.ptr(), Py_ssize_t(group));
    const Py_ssize_t state_count = PyTuple_GET_SIZE(names);
    for (; index < group_ends_[group]; ++index) {
      fetch_ahead(index);
      const Row& row = rows_[index];
      const TorchTensor grad = row.param_handle.grad();
      if (!grad)
        continue;
      if (!row.plain)
        return false;
      for (Py_ssize_t k = 0; k < state_count; ++k)
        if (!row.states[k] ||
            PyDict_GetItemWithError(row.own_state.ptr(), PyTuple_GET_ITEM(names, k)) !=
                row.states[k].ptr())
          return false;
      Live live{};
      live.row = &row;
      look_at(grad, live);
      if (live.data && !keeps_gil())
        live.grad = TorchHandle(grad);
      row.param_handle.increment_version();
      for (Py_ssize_t k = 0; k < state_count; ++k)
        row.state_handles[k].increment_version();
      live_.push_back(std::move(live));
    }
  }
  return true;
}

} // namespace dlk
