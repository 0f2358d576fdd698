// One step of an optimizer as its kernel takes it: arrays of all groups, as few one-dimensional
// ones as their strides allow, and what the rule computes with.
#pragma once

#include "bindings/arrays/shared_memory.h"
#include "bindings/optim/rule_kernel.h"
#include "bindings/optim/step_extras.h"
#include "kernels/optim/args.h"

#include <vector>

namespace dlk {

// What states are called in errors, and which of them have a sign.
struct OptimizerNames {
  std::string operation;          // "SGD"
  std::vector<std::string> slots; // of the rule, then of the average where there is one
  std::vector<bool> signed_slots; // of the rule's; empty: none is kept in eight bits
  bool has_average;

  int stream(size_t slot) const {
    return has_average && slot + 1 == slots.size() ? kAverageStream : kFirstSlotStream + int(slot);
  }
};

// The tensors of a parameter's state: slots; the scales of those that are codes; the low half of
// the parameter.
constexpr int kOptimizerScales = kOptimizerSlots + 1; // after the slots and the average
constexpr int kOptimizerLow = 2 * kOptimizerScales;
constexpr int kOptimizerStates = kOptimizerLow + 1;

// Row-major streams that are known to fit.
struct FlatStreams {
  void *streams[kOptimizerStreams], *aux[kOptimizerStreams];
  const DType* dtypes;
  const StreamFormat* formats;
  int64_t size;
  int32_t setting, number;
};

// rounding: None, or a seed and a step.
void set_rounding(OptimizerSetting& setting, py::handle rounding);

class OptimizerStep {
public:
  // memory: receives the arrays that are added, but for those of add_flat.
  explicit OptimizerStep(const OptimizerNames& names, SharedMemory* memory = nullptr)
      : names_(&names), memory_(memory) {}

  void reserve(size_t arrays) { arrays_.reserve(arrays); }

  // Returns the setting's index. rounding: None, or a seed and a step: bfloat16 states are rounded
  // at random.
  int32_t add_setting(const py::tuple& numbers, py::handle rounding);
  int32_t add_setting(const OptimizerSetting& setting);

  // One parameter, its gradient and its kOptimizerStates states (nullptr or None for one that is
  // not kept), checked; `index` names it in errors, `number` in random numbers. Without a gradient
  // (None) the average alone is updated.
  void add(py::handle param, py::handle grad, PyObject* const* states, int32_t setting,
           bool writes_gradient, size_t index, size_t number);

  void add_flat(const FlatStreams& flat);

  // Keeps something alive to the end of the step.
  void own(py::object object) { owners_.push_back(std::move(object)); }

  // Refuses a gradient that two parameters share, for a step that writes it.
  void check_gradients() const;

  // Raises OverflowError, having written nothing, for a number that float32 cannot hold where it is
  // computed in.
  void run(const RuleKernel& kernel, bool keeps_gil, StepExtras& extras) const;

private:
  void check_numbers() const;
  int32_t layout(const OptimizerLayout& layout);
  struct Operands;
  struct Dims;
  void add_arrays(const Operands& operands, int32_t setting, int32_t number);
  void copy_as_codes(Operands& operands, const TensorView& codes, bool writes_gradient);

  const OptimizerNames* names_;
  SharedMemory* memory_;
  std::vector<OptimizerArray> arrays_;
  int32_t param_count_ = 0;
  std::vector<OptimizerLayout> layouts_;
  int32_t plain_layouts_[4] = {-1, -1, -1, -1}; // by dtype
  std::vector<OptimizerSetting> settings_;
  std::vector<py::object> owners_;
  std::vector<std::pair<TensorView, TensorView>> copies_; // to copy from and to afterwards
};

} // namespace dlk
