// The operands of an elementwise loss as its kernels take them: broadcast with each other without
// being expanded, dimensions in the order of memory and joined where they can be.
#pragma once

#include "bindings/call.h"
#include "kernels/elementwise_losses/args.h"

namespace dlk {

// Owns what a call needs besides its views; fills LossArgs.
class LossLayout {
public:
  // `model` is the array whose kind results have; it must outlive this.
  LossLayout(LossArgs& args, const char* operation, const TensorView& model)
      : args_(args), operation_(operation), model_(model) {}

  // Takes an operand, which must outlive this; `argument` names it in errors. All have been taken
  // before `settle`.
  void take(LossOperand which, const TensorView& view, const char* argument);

  // Broadcasts the shapes. If `axis` is not -1, it is summed along and becomes the last dimension.
  void settle(int axis = -1);

  // The shape of the losses.
  int ndim() const { return ndim_; }
  const int64_t* shape() const { return shape_; }
  int64_t size() const { return size_; }
  int64_t lines() const { return line_elems_ ? size_ / line_elems_ : 0; }

  // A new array of that shape, in the operands' order of memory, with `wide` of float32 instead of
  // a half type; or `out`, whose memory is the result's if its strides fit the kernel.
  py::object result(LossResult which, py::handle out = py::none(), bool wide = false);

  const TensorView& made(LossResult which) const { return results_[which]; }

  // Joins dimensions. The last step before the kernel.
  void join();
  // Copies what was written elsewhere to the `out` that was given. The first step after it.
  void copy_back();

private:
  struct Operand {
    const TensorView* view = nullptr; // as it came; nullptr: not taken
    void* data;                       // the view's, or a copy's
    const char* argument;
    int64_t strides[kMaxDims]; // for each dimension of the losses; 0 where it is broadcast
    py::object owner;
  };

  int leader() const;
  void copy_operand(Operand& operand, bool expand);
  void dense_strides(int64_t* strides) const;
  bool join_dimensions();

  LossArgs& args_;
  const char* operation_;
  const TensorView& model_;
  int ndim_ = 0;
  int64_t shape_[kMaxDims];
  int64_t size_ = 1, line_elems_ = 0;
  int order_[kMaxDims]; // dimensions, outermost in memory first
  int kept_ = 0;        // how many of them have more than one element
  int axis_ = -1;
  Operand operands_[kLossOperands];
  TensorView results_[kLossResults];
  TensorView out_, out_copy_;
  py::object out_owner_;
  bool copies_back_ = false;
};

} // namespace dlk
