#include "bindings/elementwise_losses/loss_operands.h"

#include "bindings/arrays/outputs.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace dlk {

void LossLayout::take(LossOperand which, const TensorView& view, const char* argument) {
  if (which != kLossInput)
    check_same_dtype(view, model_, operation_, argument);
  Operand& operand = operands_[which];
  operand.view = &view;
  operand.data = view.data;
  operand.argument = argument;
}

// The first operand that is broadcast along no dimension: its order of dimensions is taken.
int LossLayout::leader() const {
  for (int which = 0; which < kLossOperands; ++which) {
    const Operand& operand = operands_[which];
    bool leads = operand.view;
    for (int dim = 0; dim < ndim_ && leads; ++dim)
      leads = shape_[dim] <= 1 || operand.strides[dim] != 0;
    if (leads)
      return which;
  }
  return -1;
}

void LossLayout::settle(int axis) {
  axis_ = axis;
  for (const Operand& operand : operands_)
    if (operand.view)
      ndim_ = std::max(ndim_, operand.view->ndim);
  std::fill_n(shape_, ndim_, 1);
  const Operand* first = nullptr;
  for (Operand& operand : operands_) {
    if (!operand.view)
      continue;
    const int missing = ndim_ - operand.view->ndim;
    for (int dim = 0; dim < operand.view->ndim; ++dim) {
      int64_t& size = shape_[missing + dim];
      const int64_t own = operand.view->shape[dim];
      DLK_CHECK(own == size || own == 1 || size == 1, operation_, ": ", operand.argument,
                ": expected a shape that can be broadcast with ", first->argument, "'s ",
                shape_text(*first->view), ", got ", shape_text(*operand.view));
      if (size == 1)
        size = own;
    }
    first = first ? first : &operand;
  }
  for (Operand& operand : operands_) {
    if (!operand.view)
      continue;
    const int missing = ndim_ - operand.view->ndim;
    for (int dim = 0; dim < ndim_; ++dim)
      operand.strides[dim] = dim < missing || operand.view->shape[dim - missing] == 1
                                 ? 0
                                 : operand.view->strides[dim - missing];
  }
  size_ = 1;
  kept_ = 0;
  for (int dim = 0; dim < ndim_; ++dim) {
    size_ *= shape_[dim];
    if (dim != axis_ && shape_[dim] != 1)
      order_[kept_++] = dim;
  }
  line_elems_ = axis_ >= 0 ? shape_[axis_] : size_;
  // The losses of lines come out in the order of the dimensions; all others in the leader's.
  const int lead = axis_ >= 0 ? -1 : leader();
  if (lead >= 0) {
    const int64_t* strides = operands_[lead].strides;
    for (int place = 1; place < kept_; ++place)
      for (int at = place;
           at > 0 && std::llabs(strides[order_[at - 1]]) < std::llabs(strides[order_[at]]); --at)
        std::swap(order_[at - 1], order_[at]);
  }
  if (axis_ >= 0 && shape_[axis_] != 1)
    order_[kept_++] = axis_;
  if (kept_ == 0 || size_ == 0)
    return;
  const int innermost = order_[kept_ - 1];
  for (Operand& operand : operands_)
    if (operand.view && operand.strides[innermost] != 0 && operand.strides[innermost] != 1)
      copy_operand(operand, false);
}

// The operand without gaps in the order of memory; broadcast dimensions stay so, or are expanded.
void LossLayout::copy_operand(Operand& operand, bool expand) {
  TensorView source;
  source.array = operand.view->array;
  source.kind = operand.view->kind;
  source.dtype = operand.view->dtype;
  source.data = operand.data;
  source.ndim = kept_;
  for (int place = 0; place < kept_; ++place) {
    const int dim = order_[place];
    source.strides[place] = operand.strides[dim];
    source.shape[place] = operand.strides[dim] == 0 && !expand ? 1 : shape_[dim];
  }
  const TensorView copy = contiguous_copy(source);
  operand.owner = copy.owner;
  for (int place = 0; place < kept_; ++place)
    operand.strides[order_[place]] = source.shape[place] == 1 ? 0 : copy.strides[place];
  operand.data = copy.data;
}

void LossLayout::dense_strides(int64_t* strides) const {
  int64_t stride = 1;
  for (int dim = ndim_ - 1; dim >= 0; --dim)
    if (shape_[dim] == 1)
      strides[dim] = 1;
  for (int place = kept_ - 1; place >= 0; --place) {
    strides[order_[place]] = stride;
    stride *= shape_[order_[place]];
  }
}

py::object LossLayout::result(LossResult which, py::handle out, bool wide) {
  TensorView& view = results_[which];
  wide = wide && item_size(args_.dtype) == 2;
  args_.results[which].wide = wide;
  const DType dtype = wide ? DType::float32 : args_.dtype;
  const int lead = leader();
  const auto make = [&](TensorView& fresh) {
    if (axis_ < 0 && size_ != 0 && lead >= 0 && operands_[lead].view->ndim == ndim_ &&
        operands_[lead].view->dense()) {
      TensorView like = *operands_[lead].view;
      like.array = model_.array;
      like.kind = model_.kind;
      return make_array_like(like, dtype, fresh);
    }
    int64_t strides[kMaxDims];
    dense_strides(strides);
    return make_array(model_, dtype, ndim_, shape_, strides, fresh);
  };
  if (out.is_none())
    return make(view);
  out_ = checked_output(out, operation_, ndim_, shape_, args_.dtype);
  for (const Operand& operand : operands_)
    if (operand.view)
      check_overlap(out_, *operand.view, operation_, "out", operand.argument);
  if (kept_ == 0 || out_.strides[order_[kept_ - 1]] == 1) {
    view = out_;
  } else {
    out_owner_ = make(view);
    copies_back_ = true;
  }
  return py::reinterpret_borrow<py::object>(out);
}

bool LossLayout::join_dimensions() {
  const int64_t* strides[kLossOperands + kLossResults];
  LossArray* arrays[kLossOperands + kLossResults];
  int count = 0;
  for (int which = 0; which < kLossOperands; ++which)
    if (operands_[which].view) {
      strides[count] = operands_[which].strides;
      arrays[count] = &args_.operands[which];
      arrays[count++]->data = operands_[which].data;
    }
  for (int which = 0; which < kLossResults; ++which)
    if (results_[which].array) {
      strides[count] = results_[which].strides;
      arrays[count] = &args_.results[which];
      arrays[count++]->data = results_[which].data;
    }
  args_.size = size_;
  args_.ndim = 0;
  for (int place = 0; place < kept_; ++place) {
    const int dim = order_[place];
    const int last = args_.ndim - 1;
    bool joins = last >= 0 && !(axis_ >= 0 && place == kept_ - 1 && dim == axis_);
    for (int which = 0; which < count && joins; ++which)
      joins = arrays[which]->strides[last] == strides[which][dim] * shape_[dim];
    if (!joins && args_.ndim == kLossDims)
      return false;
    const int into = joins ? last : args_.ndim++;
    args_.shape[into] = joins ? args_.shape[into] * shape_[dim] : shape_[dim];
    for (int which = 0; which < count; ++which)
      arrays[which]->strides[into] = strides[which][dim];
  }
  // One element, or lines of one element: a dimension of 1.
  if (args_.ndim == 0 || (axis_ >= 0 && shape_[axis_] == 1)) {
    if (args_.ndim == kLossDims)
      return false;
    args_.shape[args_.ndim] = 1;
    for (int which = 0; which < count; ++which)
      arrays[which]->strides[args_.ndim] = 1;
    ++args_.ndim;
  }
  return true;
}

void LossLayout::join() {
  if (join_dimensions())
    return;
  // Too many dimensions: everything without gaps.
  for (Operand& operand : operands_)
    if (operand.view)
      copy_operand(operand, true);
  for (TensorView& view : results_)
    if (view.array && view.data == out_.data && !view.dense()) {
      int64_t strides[kMaxDims];
      dense_strides(strides);
      out_owner_ = make_array(model_, args_.dtype, ndim_, shape_, strides, view);
      copies_back_ = true;
    }
  if (!join_dimensions())
    throw std::logic_error(text(operation_, ": operands without gaps do not join"));
}

void LossLayout::copy_back() {
  if (!copies_back_)
    return;
  for (const TensorView& view : results_)
    if (view.array && view.array.is(out_owner_))
      copy_elements(view, out_);
}

} // namespace dlk
