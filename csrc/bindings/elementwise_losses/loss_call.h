// A call of an elementwise loss: operands, checks, reductions and gradients, the same for all.
#pragma once

#include "bindings/elementwise_losses/loss_operands.h"
#include "bindings/reduction.h"

#include <optional>
#include <utility>

namespace dlk {

// A line of DLK_ELEMENTWISE_LOSSES.
struct LossRow {
  const char* key;
  const char* name; // in errors
  int shapes;       // LossShapes
};

const LossRow& loss_row(int index);

// The loss of this key; a KeyError for an unknown one.
int loss_index(const std::string& key);
int loss_count();

// `view` with one more dimension, of one element.
void insert_dimension(TensorView& view, int at);

// Runs `kernel` with memory for the sums of its pieces.
void run_with_partials(LossArgs& args, void (*kernel)(LossArgs&) noexcept);

// One call: its operands, checked, and what the sum is divided by.
struct LossCall {
  const LossRow& row;
  TensorView input, target, third, fourth;
  LossArgs args{};
  std::optional<LossLayout> layout;
  Reduction reduction = Reduction::none;
  bool by_batch = false; // divide a sum by the first dimension
  bool has_third = false;
  int third_ndim = 0; // as it came
  double divisor = 1;

  LossCall(int index, py::handle input_object, py::handle target_object, py::handle third_object,
           py::handle fourth_object, double a, double b, py::handle reduction_text);

  void take_third(py::handle object);

  // After the shapes are settled.
  void find_divisor();

  void check_domain() const;

  // Past the cache, where lines are worth a fence and what the call moves does not fit.
  bool streams() const;

  // The loss alone: a number, or an array of each.
  py::object forward();

  // Sums along an axis.
  py::object lines(int axis);

  py::object make_line_sums(int axis, TensorView& sums);

  // The shape that an operand came with.
  std::pair<int, const int64_t*> shape_of(int which) const;

  bool is_broadcast(int which) const;

  // The gradients of the operands in `wrt` (bits: input, target, third), with the loss or without.
  py::tuple gradients(int wrt, py::handle out);
};

} // namespace dlk
