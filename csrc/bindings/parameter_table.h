// What an optimizer knows of its parameters between steps, so that a step over thousands of small
// tensors looks at each once, and not through Python.
#pragma once

#include "bindings/torch_handle.h"

#include <atomic>

namespace dlk {

// Exactly a torch.Tensor or Parameter: a subclass may have no memory of its own.
bool is_plain(py::handle tensor);

class ParameterTable {
public:
  static constexpr int kMaxStates = 1;

  struct Row {
    py::object param, own_state; // own_state: the parameter's dict in `state`, null without one
    py::object states[kMaxStates];
    TorchHandle param_handle, state_handles[kMaxStates];
    int32_t group, index; // index within its group
    bool plain;
    bool row_major; // and floating, of two or more elements; else the rest is not set
    DType dtype;
    int64_t size;
    int ndim;
    size_t first_dim; // its shape: shapes_[first_dim, + ndim)
  };

  // A row that has a gradient at this step.
  struct Live {
    const Row* row;
    TorchHandle grad; // held only where others may run meanwhile
    // Addresses, where all of them are row-major and alike; `data` is nullptr where they are not.
    void *data, *grad_data, *state_data[kMaxStates];
  };

  // A step over few elements keeps the GIL, where there is one, so that nobody drops a gradient
  // under it: taking hold of 5000 of them would be a tenth of the step.
#ifdef Py_GIL_DISABLED
  static constexpr int64_t kKeepGilElems = 0;
#else
  static constexpr int64_t kKeepGilElems = int64_t{1} << 20;
#endif
  bool keeps_gil() const { return total_elems_ < kKeepGilElems; }

  // `groups`: the lists of parameters. `state_names`: per group, a tuple of the keys of the tensors
  // that a parameter's dict in `state` holds.
  ParameterTable(const py::list& groups, const py::list& state_names, const py::dict& state);

  // Looks at every tensor; the parameters that have gradients are then in live(), and autograd is
  // told of the write to them and their states. Returns false where the table does not fit any
  // more: another parameter, state or group than it was made from, a gradient where there was none,
  // a tensor subclass. Make a new one then.
  bool refresh(const py::list& groups, const py::list& state_names, const py::dict& state);

  const std::vector<Live>& live() const { return live_; }

  // Lets go of the gradients.
  void clear() { live_.clear(); }

  // One step at a time looks at the table; for another thread it does not fit.
  std::atomic<bool> busy{false};

private:
  bool fits(const py::list& groups, const py::list& state_names, const py::dict& state) const;
  void look_at(TorchTensor grad, Live& live) const;
  void fetch_ahead(size_t index) const;

  std::vector<Row> rows_;
  std::vector<size_t> group_ends_; // rows of group g end here
  py::list state_names_;
  std::vector<PyObject*> state_order_; // parameter, dict, parameter, ... as `state` has them
  std::vector<int64_t> shapes_;
  std::vector<Live> live_;
  int64_t total_elems_ = 0;
};

} // namespace dlk
