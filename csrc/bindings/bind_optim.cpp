// Optimizer steps over lists of arrays: every array of every group becomes pieces of one table, and
// the table is worked off in one parallel region.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "bindings/parameter_table.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace dlk {

namespace {

// Elements of a piece: 64 KB of float32.
constexpr int64_t kPieceElems = 16384;

// Of `params`, those whose `.grad` is not None; their gradients; their state under `state_name`
// (None where there is none yet); and the positions of those Nones: (params, grads, states,
// missing).
//
// `state` is walked in its own order beside `params`, which it follows in practice; so no parameter
// is hashed (a torch tensor's hash is a Python call).
py::tuple gather(const py::list& params, const py::dict& state, const py::str& state_name) {
  static PyObject* const grad_name = PyUnicode_InternFromString("grad");
  const Py_ssize_t count = PyList_GET_SIZE(params.ptr());
  py::list with_grad, grads, states, missing;
  std::unordered_map<PyObject*, PyObject*> by_param; // filled when the orders part
  Py_ssize_t position = 0;
  bool in_step = true;
  for (Py_ssize_t index = 0; index < count; ++index) {
    PyObject* param = PyList_GET_ITEM(params.ptr(), index);
    const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param, grad_name));
    if (!grad)
      throw py::error_already_set();
    if (grad.is_none())
      continue;
    PyObject *key = nullptr, *own_state = nullptr;
    if (in_step && !(PyDict_Next(state.ptr(), &position, &key, &own_state) && key == param)) {
      in_step = false;
      position = 0;
      while (PyDict_Next(state.ptr(), &position, &key, &own_state))
        by_param[key] = own_state;
    }
    if (!in_step) {
      const auto found = by_param.find(param);
      own_state = found == by_param.end() ? nullptr : found->second;
    }
    PyObject* entry = own_state && PyDict_Check(own_state)
                          ? PyDict_GetItem(own_state, state_name.ptr())
                          : nullptr;
    if (!entry || entry == Py_None) {
      missing.append(PyList_GET_SIZE(states.ptr()));
      entry = Py_None;
    }
    PyList_Append(with_grad.ptr(), param);
    PyList_Append(grads.ptr(), grad.ptr());
    PyList_Append(states.ptr(), entry);
  }
  return py::make_tuple(with_grad, grads, states, missing);
}

// Brings (param, grad, buffer) to as few one-dimensional walks as their strides allow.
void add_walks(std::vector<SgdArray>& arrays, const TensorView& param, const TensorView& grad,
               const TensorView* buffer, const SgdArray& model) {
  struct Dim {
    int64_t size, param_stride, grad_stride, buffer_stride;
  };
  Dim dims[kMaxDims];
  int count = 0;
  for (int dim = 0; dim < param.ndim; ++dim) {
    if (param.shape[dim] == 0)
      return;
    if (param.shape[dim] != 1)
      dims[count++] = {param.shape[dim], param.strides[dim], grad.strides[dim],
                       buffer ? buffer->strides[dim] : param.strides[dim]};
  }
  std::stable_sort(dims, dims + count, [](const Dim& a, const Dim& b) {
    return std::abs(a.param_stride) > std::abs(b.param_stride);
  });
  int kept = 0;
  for (int dim = 0; dim < count; ++dim) {
    if (kept) {
      Dim& outer = dims[kept - 1];
      const Dim& inner = dims[dim];
      if (outer.param_stride == inner.param_stride * inner.size &&
          outer.grad_stride == inner.grad_stride * inner.size &&
          outer.buffer_stride == inner.buffer_stride * inner.size) {
        outer = {outer.size * inner.size, inner.param_stride, inner.grad_stride,
                 inner.buffer_stride};
        continue;
      }
    }
    dims[kept++] = dims[dim];
  }
  const Dim inner = kept ? dims[kept - 1] : Dim{1, 1, 1, 1};
  const int64_t item = item_size(param.dtype);
  int64_t index[kMaxDims] = {};
  SgdArray array = model;
  array.size = inner.size;
  array.param_stride = inner.param_stride;
  array.grad_stride = inner.grad_stride;
  array.buffer_stride = buffer ? inner.buffer_stride : 1;
  while (true) {
    int64_t param_offset = 0, grad_offset = 0, buffer_offset = 0;
    for (int dim = 0; dim < kept - 1; ++dim) {
      param_offset += index[dim] * dims[dim].param_stride;
      grad_offset += index[dim] * dims[dim].grad_stride;
      buffer_offset += index[dim] * dims[dim].buffer_stride;
    }
    array.param = static_cast<char*>(param.data) + param_offset * item;
    array.grad = static_cast<char*>(grad.data) + grad_offset * item;
    array.momentum_buffer =
        buffer ? static_cast<char*>(buffer->data) + buffer_offset * item : nullptr;
    arrays.push_back(array);
    int dim = kept - 2;
    while (dim >= 0 && ++index[dim] == dims[dim].size)
      index[dim--] = 0;
    if (dim < 0)
      return;
  }
}

// What a step works on: arrays by dtype (float32, float64, bfloat16, float16).
struct SgdStep {
  std::vector<SgdGroup> groups;
  std::vector<SgdArray> arrays[4];
  std::vector<py::object> owners; // of arrays that came through __dlpack__, or from a parameter

  void run(bool keeps_gil = false) const {
    for (int dtype = 0; dtype < 4; ++dtype) {
      if (arrays[dtype].empty())
        continue;
      std::vector<OptimizerChunk> chunks;
      chunks.reserve(arrays[dtype].size());
      SgdArgs args{};
      for (size_t array = 0; array < arrays[dtype].size(); ++array) {
        const int64_t size = arrays[dtype][array].size;
        args.total_elems += size;
        for (int64_t begin = 0; begin < size; begin += kPieceElems)
          chunks.push_back({int64_t(array), begin, std::min(size, begin + kPieceElems)});
      }
      args.dtype = DType(dtype);
      args.arrays = arrays[dtype].data();
      args.groups = groups.data();
      args.chunks = chunks.data();
      args.chunk_count = int64_t(chunks.size());
      without_gil(keeps_gil ? 0 : args.total_elems, [&] { runtime::kernels().sgd(args); });
    }
  }
};

// (lr, momentum, dampening, weight_decay, nesterov, maximize), from position `first` of a tuple
SgdGroup sgd_group(const py::tuple& numbers, size_t first) {
  return {numbers[first].cast<double>(),     numbers[first + 1].cast<double>(),
          numbers[first + 2].cast<double>(), numbers[first + 3].cast<double>(),
          numbers[first + 4].cast<bool>(),   numbers[first + 5].cast<bool>()};
}

// One parameter, its gradient and its buffer (nullptr without momentum), checked and added.
void add_array(SgdStep& step, py::handle param_object, py::handle grad_object,
               PyObject* buffer_object, const SgdArray& model, size_t index) {
  constexpr const char* operation = "SGD";
  const TensorView param = output_view_of(param_object, operation, "params");
  const TensorView grad = view_of(grad_object, operation, "grads");
  check_floating(param, operation, "params");
  DLK_CHECK(same_shape(grad, param), operation, ": grads[", index, "]: expected shape ",
            shape_text(param), ", got ", shape_text(grad));
  check_same_dtype(grad, param, operation, "grads");
  TensorView buffer;
  if (buffer_object) {
    buffer = output_view_of(buffer_object, operation, "momentum_buffer");
    DLK_CHECK(same_shape(buffer, param), operation, ": momentum_buffer[", index,
              "]: expected shape ", shape_text(param), ", got ", shape_text(buffer));
    check_same_dtype(buffer, param, operation, "momentum_buffer");
  }
  add_walks(step.arrays[int(param.dtype)], param, grad, buffer_object ? &buffer : nullptr, model);
  for (const TensorView* view : {&param, &grad, static_cast<const TensorView*>(&buffer)})
    if (view->kind == ArrayKind::dlpack)
      step.owners.push_back(view->owner);
}

// One SGD step over groups of (params, grads, momentum_buffers or None, positions of the buffers
// that are at their first step, lr, momentum, dampening, weight_decay, nesterov, maximize).
// Everything is checked before anything is written.
void sgd(const py::list& group_list) {
  SgdStep step;
  for (py::handle group_handle : group_list) {
    const py::tuple group = py::reinterpret_borrow<py::tuple>(group_handle);
    const py::list params = group[0], grads = group[1];
    const py::object buffers = group[2];
    const py::list first_steps = group[3];
    DLK_CHECK(params.size() == grads.size() &&
                  (buffers.is_none() || py::len(buffers) == params.size()),
              "SGD: grads: expected ", params.size(), " arrays, got ", grads.size());
    step.groups.push_back(sgd_group(group, 4));
    std::vector<char> is_first(params.size(), 0);
    for (py::handle position : first_steps)
      is_first.at(position.cast<size_t>()) = 1;
    for (size_t index = 0; index < params.size(); ++index) {
      SgdArray model{};
      model.group = int32_t(step.groups.size() - 1);
      model.first_step = is_first[index];
      add_array(step, PyList_GET_ITEM(params.ptr(), index), PyList_GET_ITEM(grads.ptr(), index),
                buffers.is_none() ? nullptr : PyList_GET_ITEM(buffers.ptr(), index), model, index);
    }
  }
  step.run();
}

// The same for tensors that a table knows. Returns false, having written nothing, where the table
// does not fit any more. `numbers`: per group (lr, momentum, dampening, weight_decay, nesterov,
// maximize).
bool sgd_table(ParameterTable& table, const py::list& groups, const py::list& state_names,
               const py::dict& state, const py::list& numbers) {
  if (table.busy.exchange(true))
    return false;
  struct Release {
    ParameterTable& table;
    ~Release() {
      table.clear();
      table.busy = false;
    }
  } release{table};
  if (!table.refresh(groups, state_names, state))
    return false;
  SgdStep step;
  for (py::handle group : numbers)
    step.groups.push_back(sgd_group(py::reinterpret_borrow<py::tuple>(group), 0));
  for (const ParameterTable::Live& live : table.live()) {
    const ParameterTable::Row& row = *live.row;
    if (!live.data) {
      const py::object grad = row.param.attr("grad");
      if (!is_plain(grad))
        return false;
      SgdArray model{};
      model.group = row.group;
      const bool has_momentum = step.groups.at(size_t(row.group)).momentum != 0;
      step.owners.push_back(grad);
      add_array(step, row.param, grad, has_momentum ? row.states[0].ptr() : nullptr, model,
                size_t(row.index));
      continue;
    }
    std::vector<SgdArray>& arrays = step.arrays[int(row.dtype)];
    if (arrays.empty())
      arrays.reserve(table.live().size());
    SgdArray& array = arrays.emplace_back();
    array.param = live.data;
    array.grad = live.grad_data;
    array.momentum_buffer = live.state_data[0];
    array.size = row.size;
    array.param_stride = array.grad_stride = array.buffer_stride = 1;
    array.first_step = false;
    array.group = row.group;
  }
  step.run(table.keeps_gil());
  return true;
}

} // namespace

void bind_optim(py::module_& m) {
  m.def("gather", &gather);
  m.def("sgd", &sgd);
  m.def("torch_handles_available", &torch_handles_available);
  py::class_<ParameterTable>(m, "ParameterTable")
      .def(py::init<const py::list&, const py::list&, const py::dict&>());
  m.def("sgd_table", &sgd_table);
}

} // namespace dlk
