#include "bindings/optim/parameter_table.h"

#include "bindings/exchange.h"
#include "runtime/threads.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

namespace dlk {
namespace {

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

// The entry of a dict, borrowed; nullptr where there is none or None.
PyObject* entry_of(PyObject* dict, PyObject* name) {
  PyObject* entry = PyDict_GetItemWithError(dict, name);
  if (!entry && PyErr_Occurred())
    throw py::error_already_set();
  return entry == Py_None ? nullptr : entry;
}

// A number that every change of a dict changes, where Python has one; else 0.
uint64_t version_of([[maybe_unused]] PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#else
  return 0;
#endif
}

// What a row takes to be looked at, in elements of work.
constexpr int64_t kElemsPerRow = 512;

double read_scalar(const void* data, bool is_single) {
  return is_single ? double(*static_cast<const float*>(data)) : *static_cast<const double*>(data);
}

} // namespace

ParameterTable::ParameterTable(const std::string& operation, const std::string& kernel,
                               const std::vector<std::string>& slots, bool has_average,
                               const std::vector<std::string>& scalars, const py::list& groups,
                               const py::list& used, const py::dict& state, const py::list& fresh,
                               bool uses_handles, const std::vector<bool>& signed_slots,
                               const std::vector<bool>& rounds)
    : names_{operation, slots, signed_slots, has_average}, kernel_(optimizer_kernel(kernel)),
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
      Row row{};
      row.first = entries_.size();
      row.group = int32_t(group);
      row.index = int32_t(rows_.size() - (group ? group_ends_[group - 1] : 0));
      row.plain = is_plain(param);
      row.fresh = is_fresh.count(param.ptr()) != 0;
      entries_.resize(entries_.size() + per_row_);
      py::object* entry = &entries_[row.first];
      *entry++ = py::reinterpret_borrow<py::object>(param);
      if (PyObject* own = entry_of(state.ptr(), param.ptr())) {
        row.own_state = py::reinterpret_borrow<py::object>(own);
        const auto take = [&](py::handle name) {
          PyObject* found = name.is_none() ? nullptr : entry_of(own, name.ptr());
          if (found && is_plain(found))
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
    if (!grad.is_none() && is_plain(grad))
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

// Whether there is an average to go on without a gradient.
bool ParameterTable::has_average(const Row& row) const {
  return names_.has_average && entries_[row.first + slot_count_];
}

// The addresses of row-major tensors that are as the row says; false if one is not.
bool ParameterTable::find_streams(const Row& row, TorchTensor grad, FlatStreams& flat) const {
  if (!row.row_major)
    return false;
  const int64_t* shape = shapes_.data() + row.first_dim;
  const TorchHandle* handle = &handles_[row.first];
  void** const streams = flat.streams;
  streams[0] = handle[0].data(row.dtypes[0], row.ndim, shape);
  bool all = streams[0];
  if (grad) {
    streams[1] = grad.data(row.dtypes[1], row.ndim, shape);
    all = all && streams[1];
  }
  for (size_t k = 0; k < slot_count_; ++k) {
    const int stream = names_.stream(k);
    if (handle[1 + k] && (grad || stream == kAverageStream)) {
      streams[stream] = handle[1 + k].data(row.dtypes[stream], row.ndim, shape);
      all = all && streams[stream];
    }
  }
  if (format_count_) {
    const int64_t blocks = (row.size + kOptimizerBlock - 1) / kOptimizerBlock;
    const TorchHandle* const format = handle + 1 + slot_count_;
    for (size_t k = 0; k < slot_count_; ++k)
      if (const int stream = names_.stream(k); grad && row.dtypes[stream] == DType::uint8) {
        flat.aux[stream] = format[k] ? format[k].data(DType::float32, 1, &blocks) : nullptr;
        all = all && flat.aux[stream];
      }
    if (row.formats[kParamStream] == StreamFormat::split) {
      flat.aux[0] = format[slot_count_].data(DType::int16, row.ndim, shape);
      all = all && flat.aux[0];
    }
  }
  flat.dtypes = row.dtypes;
  flat.formats = row.formats;
  flat.size = row.size;
  flat.number = int32_t(number_of(row));
  return all;
}

// The addresses of the scalars; false where one has none of its own.
bool ParameterTable::find_scalars(Live& live) const {
  const TorchHandle* handle = &handles_[live.row->first + 1 + slot_count_ + format_count_];
  live.single = 0;
  for (size_t k = 0; k < scalar_count_; ++k) {
    live.scalars[k] = handle[k].data(DType::float32, 0, nullptr);
    live.single |= (live.scalars[k] != nullptr) << k;
    if (!live.scalars[k])
      live.scalars[k] = handle[k].data(DType::float64, 0, nullptr);
    if (!live.scalars[k])
      return false;
  }
  return true;
}

// The same; a TypeError for what is no scalar, which torch then takes.
void ParameterTable::find_scalars_through_python(Live& live) const {
  live.single = 0;
  for (size_t k = 0; k < scalar_count_; ++k) {
    const std::string name = py::str(scalar_names_[k]);
    const TensorView view =
        output_view_of(entries_[live.row->first + 1 + slot_count_ + format_count_ + k],
                       names_.operation.c_str(), name.c_str());
    const bool is_single = view.dtype == DType::float32;
    DLK_CHECK_TYPE(view.ndim == 0 && (is_single || view.dtype == DType::float64), names_.operation,
                   ": ", name, ": expected a float32 or float64 scalar, got ",
                   dtype_name(view.dtype), " of shape ", shape_text(view));
    live.single |= is_single << k;
    live.scalars[k] = view.data;
  }
}

// A tensor is a chain of small objects all over memory, each waited for in turn: a tenth of a step
// over thousands.
void ParameterTable::fetch_ahead(size_t index) const {
  const size_t count = rows_.size(), first = index * per_row_;
  if (index + 8 < count)
    for (size_t k = 0; k < per_row_; ++k)
      handles_[first + 8 * per_row_ + k].fetch();
  if (index + 4 < count)
    for (size_t k = 0; k < per_row_; ++k)
      handles_[first + 4 * per_row_ + k].fetch_linked();
  if (index + 2 < count)
    handles_[first + 2 * per_row_].grad().fetch();
  if (index + 1 < count)
    handles_[first + per_row_].grad().fetch_linked();
}

bool ParameterTable::Setting::is_for(int32_t for_group, bool for_fresh, int for_single,
                                     const double* for_scalars) const {
  return group == for_group && fresh == for_fresh && single == for_single &&
         std::memcmp(scalars, for_scalars, sizeof scalars) == 0;
}

bool ParameterTable::is_of(const Setting& setting, const Live& live) const {
  double scalars[kMaxScalars] = {};
  for (size_t k = 0; k < scalar_count_; ++k)
    scalars[k] = read_scalar(live.scalars[k], live.single >> k & 1);
  return setting.is_for(live.row->group, live.row->fresh, live.single, scalars);
}

// The index of a live row's setting, -1 for one that is missing.
int32_t ParameterTable::setting_of(const Live& live, std::vector<Setting>& missing) {
  const auto fits_live = [&](const Setting& setting) { return is_of(setting, live); };
  const auto found = std::find_if(settings_.begin(), settings_.end(), fits_live);
  if (found != settings_.end())
    return int32_t(found - settings_.begin());
  if (std::none_of(missing.begin(), missing.end(), fits_live)) {
    Setting setting{};
    setting.group = live.row->group;
    setting.fresh = live.row->fresh;
    setting.single = live.single;
    for (size_t k = 0; k < scalar_count_; ++k)
      setting.scalars[k] = read_scalar(live.scalars[k], live.single >> k & 1);
    missing.push_back(setting);
  }
  return -1;
}

ParameterTable::Setting ParameterTable::advanced(Setting setting, const py::object& advance) const {
  py::tuple scalars(scalar_count_);
  for (size_t k = 0; k < scalars.size(); ++k)
    scalars[k] = setting.scalars[k];
  const py::tuple result = advance(setting.group, scalars, setting.fresh, setting.single);
  const py::tuple next = result[0], numbers = result[1];
  for (size_t k = 0; k < scalars.size(); ++k)
    setting.next[k] = next[k].cast<double>();
  DLK_CHECK(numbers.size() <= kOptimizerNumbers, names_.operation, ": expected at most ",
            kOptimizerNumbers, " numbers, got ", numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i)
    setting.numbers.numbers[i] = numbers[i].cast<double>();
  set_rounding(setting.numbers, result[2]);
  return setting;
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

TorchTensor ParameterTable::grad_of(const Live& live) const {
  return live.grad ? TorchTensor(live.grad) : handles_[live.row->first].grad();
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

// Finds what can be found without Python.
void ParameterTable::look_at(Live& live, bool counts_versions) {
  const Row& row = *live.row;
  const TorchTensor grad = handles_[row.first].grad();
  live.has_grad = bool(grad);
  live.is_live = live.has_grad || has_average(row);
  live.is_flat = live.has_scalars = false;
  live.setting = -1;
  if (!live.is_live || !row.plain || !row.has_states)
    return;
  live.has_scalars = find_scalars(live);
  if (live.has_grad && live.has_scalars && size_t(row.setting) < settings_.size() &&
      is_of(settings_[size_t(row.setting)], live))
    live.setting = row.setting;
  live.flat = FlatStreams{};
  live.is_flat = find_streams(row, grad, live.flat);
  if (live.is_flat && live.has_grad && !keeps_gil())
    live.grad = TorchHandle(grad);
  if (counts_versions)
    count_versions(live);
}

// Looks at every tensor, all threads together. Returns false where the table does not fit.
bool ParameterTable::collect(OptimizerStep& step, std::vector<Setting>& missing,
                             const StepExtras& extras) {
  check_states();
  step.reserve(rows_.size());
  if (uses_handles_) {
    struct Context {
      ParameterTable& table;
      bool counts_versions;
    } context{*this, !extras.may_skip()};
    const auto look = [](void* data, int64_t begin, int64_t end, int) noexcept {
      const Context& context = *static_cast<Context*>(data);
      for (int64_t index = begin; index < end; ++index) {
        context.table.fetch_ahead(size_t(index));
        context.table.look_at(context.table.live_[size_t(index)], context.counts_versions);
      }
    };
    const int64_t count = int64_t(rows_.size());
    runtime::parallel_for(count, count * kElemsPerRow, look, &context);
  }
  for (Live& live : live_) {
    Row& row = *live.row;
    if (!uses_handles_) {
      live.has_grad = !entries_[row.first].attr("grad").is_none();
      live.is_live = live.has_grad || has_average(row);
      live.setting = -1;
    }
    if (!live.is_live)
      continue;
    if (!row.plain || !row.has_states)
      return false;
    if (live.has_grad) {
      if (!live.has_scalars)
        find_scalars_through_python(live);
      if (live.setting < 0)
        live.setting = setting_of(live, missing);
      if (live.setting >= 0) {
        row.setting = live.setting;
        settings_[size_t(live.setting)].used = true;
      }
    }
    if (live.is_flat) {
      live.flat.setting = live.setting;
      step.add_flat(live.flat);
    }
    if (!uses_handles_ && !extras.may_skip())
      count_versions(live);
  }
  return true;
}

bool ParameterTable::add_through_python(OptimizerStep& step, const Live& live,
                                        const StepExtras& extras) const {
  const Row& row = *live.row;
  const py::object* entry = &entries_[row.first];
  const py::object grad = live.has_grad ? py::object(entry[0].attr("grad")) : py::none();
  if (live.has_grad && !is_plain(grad))
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

bool ParameterTable::step(const py::list& groups, const py::list& used, const py::dict& state,
                          const py::object& advance, StepExtras& extras) {
  if (busy_.exchange(true))
    return false;
  struct Release {
    ParameterTable& table;
    ~Release() {
      if (!table.keeps_gil())
        for (Live& live : table.live_)
          live.grad = TorchHandle();
      table.busy_ = false;
    }
  } release{*this};

  // What the last step came to is where this one most likely starts.
  std::vector<Setting> wanted;
  for (const Setting& last : settings_) {
    if (!last.used)
      continue;
    Setting setting{};
    setting.group = last.group;
    setting.single = last.single;
    for (int k = 0; k < kMaxScalars; ++k)
      setting.scalars[k] = last.single >> k & 1 ? double(float(last.next[k])) : last.next[k];
    wanted.push_back(setting);
  }
  settings_.clear();
  OptimizerStep step(names_);
  do { // tensors are looked at after the last call of Python, which lets other threads run
    if (!fits(groups, used, state))
      return false;
    for (const Setting& setting : wanted)
      settings_.push_back(advanced(setting, advance));
    wanted.clear();
    step = OptimizerStep(names_);
    if (!fits(groups, used, state) || !collect(step, wanted, extras))
      return false;
  } while (!wanted.empty());
  for (const Setting& setting : settings_)
    step.add_setting(setting.numbers);
  for (const Live& live : live_)
    if (live.is_live && !live.is_flat && !add_through_python(step, live, extras))
      return false;
  step.run(kernel_, keeps_gil(), extras);
  if (extras.writes_gradients())
    count_gradient_versions();
  if (extras.is_skipped)
    return true;
  if (extras.may_skip())
    for (const Live& live : live_)
      if (live.is_live)
        count_versions(live);
  write_scalars();
  return true;
}

} // namespace dlk
