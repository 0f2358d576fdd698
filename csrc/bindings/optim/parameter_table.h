// What is kept of an optimizer's parameters between steps, so that a step over thousands of small
// tensors reads each once, and not through Python.
#pragma once

#include "bindings/optim/optimizer_step.h"
#include "bindings/torch_internals/torch_handle.h"

#include <atomic>

namespace dlk {

class ParameterTable : public MadeByInit {
public:
  // operation, kernel: as OptimizerStep takes them. slots: the names of the rule's states, and of
  // the average if has_average, and scalars: of its numbers (0-d tensors), in a parameter's dict in
  // `state`. groups: the lists of parameters. used: per group, a tuple of the slots' names with
  // None for those it does not keep.
  // fresh: states of these tensors are at their first step and hold nothing yet. uses_handles: see
  // torch_handles_available(). signed_slots: which slots have a sign, if some may be codes or the
  // parameter split; else empty. rounds: per group, whether bfloat16 states are rounded at random.
  //
  // TypeError for tensors that share memory (parameters, states, and gradients as
  // they are now): only in order are they updated as torch updates them.
  ParameterTable(const std::string& operation, const std::string& kernel,
                 const std::vector<std::string>& slots, bool has_average,
                 const std::vector<std::string>& scalars, const py::list& groups,
                 const py::list& used, const py::dict& state, const py::list& fresh,
                 bool uses_handles, const std::vector<bool>& signed_slots,
                 const std::vector<bool>& rounds);

  // The settings that the next step most likely needs, as (group, scalars, fresh, single): what the
  // last step came to. A parameter's setting is what its numbers are computed from: its group, its
  // scalars before the step, whether the step is its first; bit k of `single` says that scalar k is
  // kept in float32. Empty where the table does not fit.
  py::list expected(const py::list& groups, const py::list& used, const py::dict& state);

  // One step for every parameter that has a gradient, or an average; autograd is told of the
  // writes. settings: (group, scalars, fresh, single, scalars after this step, the rule's numbers,
  // None or a seed and a step to round with). Returns a list of the settings that are missing as
  // `expected` has them, with nothing written; or True; or False, with nothing written, where the
  // table does not fit any more: another parameter, state or group than it was made from, a
  // gradient where there was none, a tensor subclass. Where `extras` say that it was skipped,
  // gradients alone may have been written.
  py::object step(const py::list& groups, const py::list& used, const py::dict& state,
                  const py::list& settings, StepExtras& extras);

private:
  static constexpr int kMaxScalars = 3;

  // A row is a parameter. Its tensors stand in entries_ and handles_, `per_row_` for each row: the
  // parameter, the states, if they may be in formats of their own the scales of each and the
  // parameter's low half, then the scalars; null for those that are not there.
  struct Row {
    py::object own_state; // the parameter's dict in `state`, null without one
    size_t first;         // of entries_ and handles_
    int32_t group, index; // index within its group
    bool plain;           // exactly a torch.Tensor or Parameter: a subclass may have no memory
    bool fresh;
    bool coded[kOptimizerSlots + 1]; // which states are codes, under a name that says so
    bool has_states;      // own_state held what stands in entries_ when it had own_version
    uint64_t own_version; // 0: not known
    int32_t setting;      // the last one
    bool row_major;       // and floating, of two or more elements; else the rest is not set
    int ndim;
    int64_t size;
    size_t first_dim; // its shape: shapes_[first_dim, + ndim)
    DType dtypes[kOptimizerStreams];
    StreamFormat formats[kOptimizerStreams];
  };

  // What a step finds of a row. Without is_live nothing after it is set.
  struct Live {
    Row* row;
    TorchHandle grad; // held only where others may run meanwhile
    FlatStreams flat;
    void* scalars[kMaxScalars];
    bool is_live; // has a gradient, or else an average
    bool has_grad, is_flat, has_scalars;
    int single;      // bit k: scalar k is float32, else float64
    int32_t setting; // -1: not known yet
  };

  // See `expected` and `step`.
  struct Setting {
    int32_t group;
    bool fresh;
    int single;
    double scalars[kMaxScalars], next[kMaxScalars];
    OptimizerSetting numbers;
    bool used;
  };

  // One step at a time uses the table; for another thread it does not fit.
  struct Lock;

  // A step over few elements keeps the GIL, where there is one, so that nobody drops a gradient
  // under it: taking hold of 5000 of them would be a tenth of the step.
#ifdef Py_GIL_DISABLED
  static constexpr int64_t kKeepGilElems = 0;
#else
  static constexpr int64_t kKeepGilElems = int64_t{1} << 20;
#endif
  bool keeps_gil() const { return total_elems_ < kKeepGilElems; }

  // table_build.cpp
  void add_row(py::handle param, const py::tuple& names, const py::dict& state);
  void check_memory() const;
  void make_handles();
  void find_formats(Row& row) const;

  // table_fits.cpp
  bool fits(const py::list& groups, const py::list& used, const py::dict& state) const;
  bool has_its_states(const Row& row, PyObject* used) const;
  void check_states();

  // table_settings.cpp
  Setting read_setting(const py::tuple& given) const;
  py::tuple asked(const Setting& setting) const;
  Setting setting_for(const Live& live) const;
  bool is_of(const Setting& setting, const Live& live) const;
  int32_t setting_of(const Live& live, std::vector<Setting>& missing) const;

  // table_find.cpp
  size_t number_of(const Row& row) const { return size_t(&row - rows_.data()); }
  bool has_average(const Row& row) const;
  bool find_streams(const Row& row, TorchTensor grad, FlatStreams& flat) const;
  bool find_scalars(Live& live) const;
  void find_scalars_through_python(Live& live) const;
  void fetch_ahead(size_t index) const;
  void find(Live& live, bool counts_versions);
  bool collect(OptimizerStep& step, std::vector<Setting>& missing, const StepExtras& extras);

  // table_step.cpp
  TorchTensor grad_of(const Live& live) const;
  bool add_through_python(OptimizerStep& step, const Live& live, const StepExtras& extras) const;
  void count_versions(const Live& live) const;
  void count_gradient_versions() const;
  void write_scalars();

  OptimizerNames names_;
  RuleKernel kernel_;
  py::list scalar_names_, used_;
  std::vector<Row> rows_;
  std::vector<py::object> entries_;
  std::vector<TorchHandle> handles_;
  size_t slot_count_, scalar_count_, format_count_, per_row_;
  py::list code_names_, format_names_; // of the codes; of the scales and the low half
  std::vector<bool> rounds_;
  std::vector<size_t> group_ends_;     // rows of group g end here
  std::vector<PyObject*> params_;      // of the rows
  std::vector<PyObject*> state_order_; // parameter, dict, parameter, ... as `state` has them
  std::vector<int64_t> shapes_;
  std::vector<Live> live_;        // of the rows
  std::vector<Setting> settings_; // of this step, then of the last
  int64_t total_elems_ = 0;
  bool uses_handles_;
  std::atomic<bool> busy_{false};
};

struct ParameterTable::Lock {
  explicit Lock(ParameterTable& table) : table(table), is_held(!table.busy_.exchange(true)) {}
  ~Lock() {
    if (!is_held)
      return;
    if (!table.keeps_gil())
      for (Live& live : table.live_)
        live.grad = TorchHandle();
    table.busy_ = false;
  }
  ParameterTable& table;
  const bool is_held;
};

// Whether this is exactly a torch.Tensor or Parameter.
bool is_plain_tensor(py::handle tensor);

// What a row takes to be read, in elements of work.
constexpr int64_t kElemsPerRow = 512;

} // namespace dlk
