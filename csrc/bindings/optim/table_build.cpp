// ParameterTable: what it keeps of parameters, states and groups.
#include "bindings/optim/parameter_table.h"

#include "bindings/arrays/exchange.h"

#include <algorithm>
#include <unordered_set>

namespace dlk {
namespace {

// The entry of a dict, borrowed; nullptr where there is none or None.
PyObject* entry_of(PyObject* dict, PyObject* name) {
  PyObject* entry = PyDict_GetItemWithError(dict, name);
  if (!entry && PyErr_Occurred())
    throw py::error_already_set();
  return entry == Py_None ? nullptr : entry;
}

} // namespace

bool is_plain_tensor(py::handle tensor) {
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

ParameterTable::ParameterTable(const std::string& operation, const std::string& kernel,
                               const std::vector<std::string>& slots, bool has_average,
                               const std::vector<std::string>& scalars, const py::list& groups,
                               const py::list& used, const py::dict& state, const py::list& fresh,
                               bool uses_handles, const std::vector<bool>& signed_slots,
                               const std::vector<bool>& rounds)
    : names_{operation, slots, signed_slots, has_average}, kernel_(rule_kernel(kernel)),
      slot_count_(slots.size()), scalar_count_(scalars.size()),
      format_count_(signed_slots.empty() ? 0 : slots.size() + 1),
      per_row_(1 + slots.size() + format_count_ + scalars.size()), rounds_(rounds),
      uses_handles_(uses_handles) {
  DLK_CHECK(slot_count_ <= kOptimizerSlots + size_t(has_average) && scalar_count_ <= kMaxScalars,
            operation, ": too many states");
  for (const std::string& name : scalars)
    scalar_names_.append(
        py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name.c_str())));
  if (format_count_) {
    for (const std::string& name : slots) {
      code_names_.append(py::str(name + "_8bit"));
      format_names_.append(py::str(name + "_absmax"));
    }
    format_names_.append(py::str("master_low"));
  }
  std::unordered_set<PyObject*> is_fresh;
  for (py::handle param : fresh)
    is_fresh.insert(param.ptr());
  for (size_t group = 0; group < groups.size(); ++group) {
    const py::tuple names = used[group];
    used_.append(names);
    for (py::handle param : py::list(groups[group])) {
      add_row(param, names, state);
      Row& row = rows_.back();
      row.group = int32_t(group);
      row.index = int32_t(rows_.size() - 1 - (group ? group_ends_[group - 1] : 0));
      row.fresh = is_fresh.count(param.ptr()) != 0;
    }
    group_ends_.push_back(rows_.size());
  }
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(state.ptr(), &position, &key, &value))
    state_order_.insert(state_order_.end(), {key, value});
  live_.resize(rows_.size());
  for (size_t index = 0; index < rows_.size(); ++index)
    live_[index].row = &rows_[index];
  check_memory();
  if (uses_handles_)
    make_handles();
}

void ParameterTable::add_row(py::handle param, const py::tuple& names, const py::dict& state) {
  Row row{};
  row.first = entries_.size();
  row.plain = is_plain_tensor(param);
  entries_.resize(entries_.size() + per_row_);
  py::object* entry = &entries_[row.first];
  *entry++ = py::reinterpret_borrow<py::object>(param);
  if (PyObject* own = entry_of(state.ptr(), param.ptr())) {
    row.own_state = py::reinterpret_borrow<py::object>(own);
    const auto take = [&](py::handle name) {
      PyObject* found = name.is_none() ? nullptr : entry_of(own, name.ptr());
      if (found && is_plain_tensor(found))
        *entry = py::reinterpret_borrow<py::object>(found);
      ++entry;
    };
    for (size_t k = 0; k < slot_count_; ++k) {
      const bool is_coded =
          format_count_ && entry_of(own, PyList_GET_ITEM(code_names_.ptr(), Py_ssize_t(k)));
      row.coded[k] = is_coded && !names[k].is_none();
      take(row.coded[k] ? py::handle(code_names_[k]) : py::handle(names[k]));
    }
    for (py::handle name : format_names_)
      take(name);
    for (py::handle name : scalar_names_)
      take(name);
  }
  params_.push_back(param.ptr());
  rows_.push_back(std::move(row));
}

void ParameterTable::check_memory() const {
  SharedMemory memory;
  const auto add = [&](py::handle tensor, const char* name, size_t index, bool is_written) {
    FlatView flat;
    if (flat_view(tensor, flat))
      return memory.add(flat, name, index, is_written);
    try {
      memory.add(view_of(tensor, names_.operation.c_str(), name), name, index, is_written);
    } catch (const TypeError&) { // nothing that a kernel could write
    }
  };
  for (const Row& row : rows_) {
    if (!row.plain)
      continue;
    const py::object* entry = &entries_[row.first];
    const size_t index = number_of(row);
    add(entry[0], "params", index, true);
    const py::object grad = entry[0].attr("grad");
    if (!grad.is_none() && is_plain_tensor(grad))
      add(grad, "grads", index, false);
    for (size_t k = 0; k < slot_count_; ++k)
      if (entry[1 + k])
        add(entry[1 + k], names_.slots[k].c_str(), index, true);
    for (size_t k = 0; k < format_count_; ++k)
      if (entry[1 + slot_count_ + k])
        add(entry[1 + slot_count_ + k], k < slot_count_ ? "the scales of states" : "master_low",
            index, true);
  }
  const std::string found = memory.find();
  DLK_CHECK_TYPE(found.empty(), names_.operation, ": ", found);
}

void ParameterTable::make_handles() {
  py::list tensors;
  for (const py::object& entry : entries_)
    if (entry)
      tensors.append(entry);
  std::vector<TorchHandle> made = torch_handles(tensors);
  handles_.resize(entries_.size());
  size_t next = 0;
  for (size_t index = 0; index < entries_.size(); ++index)
    if (entries_[index])
      handles_[index] = std::move(made[next++]);
  for (Row& row : rows_) {
    const py::object* entry = &entries_[row.first];
    FlatView view;
    row.row_major = row.plain && flat_view(entry[0], view) && is_floating(view.dtype);
    if (!row.row_major) {
      total_elems_ += entry[0].attr("numel")().cast<int64_t>();
      continue;
    }
    std::fill_n(row.dtypes, kOptimizerStreams, view.dtype);
    row.size = view.size;
    row.ndim = view.ndim;
    row.first_dim = shapes_.size();
    shapes_.insert(shapes_.end(), view.shape, view.shape + view.ndim);
    total_elems_ += view.size;
    const py::object grad = entry[0].attr("grad");
    if (!grad.is_none() && flat_view(grad, view) && is_floating(view.dtype))
      row.dtypes[1] = view.dtype;
    for (size_t k = 0; k < slot_count_; ++k)
      if (entry[1 + k] && flat_view(entry[1 + k], view) &&
          (is_floating(view.dtype) || (view.dtype == DType::uint8 && format_count_)))
        row.dtypes[names_.stream(k)] = view.dtype;
    find_formats(row);
  }
}

void ParameterTable::find_formats(Row& row) const {
  std::fill_n(row.formats, kOptimizerStreams, StreamFormat::plain);
  if (!format_count_)
    return;
  const py::object* entry = &entries_[row.first];
  for (size_t k = 0; k < names_.signed_slots.size(); ++k) {
    StreamFormat& format = row.formats[kFirstSlotStream + k];
    const DType dtype = row.dtypes[kFirstSlotStream + k];
    if (!entry[1 + k])
      continue;
    if (dtype == DType::uint8)
      format = names_.signed_slots[k] ? StreamFormat::signed_codes : StreamFormat::unsigned_codes;
    else if (dtype == DType::bfloat16 && rounds_[size_t(row.group)])
      format = StreamFormat::random;
  }
  if (entry[1 + 2 * slot_count_])
    row.formats[kParamStream] = StreamFormat::split;
}

} // namespace dlk
