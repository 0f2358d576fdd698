// What the operations of batch normalization share.
#pragma once

#include "bindings/arrays/outputs.h"
#include "bindings/norm/norm_layout.h"
#include "kernels/norm/args.h"

#include <optional>

namespace dlk {

// Vectors of doubles that live as long as the call.
class Doubles {
public:
  explicit Doubles(int64_t count) : buffer_(count), next_(buffer_.data()) {}
  // Each starts on a line of its own.
  static int64_t padded(int64_t count) { return (count + 7) / 8 * 8; }
  double* take(int64_t count) {
    double* taken = next_;
    next_ += padded(count);
    return taken;
  }

private:
  Scratch<double> buffer_;
  double* next_;
};

// Whether backward needs only one bit for each element of what the activation was given.
inline bool rectifies(const BatchNormArgs& args) {
  return args.activation == NormActivation::relu || args.activation == NormActivation::leaky_relu;
}

// One call: its input, and the checks that every function of batch normalization shares.
class NormCall {
public:
  const char* operation;
  TensorView input; // as the kernel reads it
  BatchNormArgs args{};
  DType parameter_dtype = DType::float32; // of parameters and statistics, once one was seen
  int64_t channels, count;

  NormCall(py::handle input_object, const char* name);

  bool empty() const { return input.size() == 0; }
  int64_t work() const { return input.size(); }

  void activate(py::handle activation, double negative_slope);

  void check_channels(const TensorView& view, const char* argument) const;

  // A vector of one element per channel, of a dtype that goes with the input.
  std::optional<TensorView> vector(py::handle object, const char* argument, bool written = false);

  // Statistics that an earlier call gave: float32 or float64, whatever the input's dtype.
  TensorView statistics(py::handle object, const char* argument) const;

  std::optional<TensorView> same_as_input(py::handle object, const char* argument) const;

  // Chooses the layout and makes room for the kernel; after every check.
  void lay_out(bool reduce, bool elementwise, int arrays_read_twice);

  ClassArray operand(const TensorView& view);

  // A new array that lies like the input.
  py::object like_input(ClassArray& strides, TensorView& view);

  const double* doubles(const std::optional<TensorView>& view) {
    return view ? load(*view, vectors_->take(channels)) : nullptr;
  }
  double* load(const TensorView& view, double* values) const;
  void store(const TensorView& view, double* values) const;
  // invstd = 1 / sqrt(variances + eps)
  void invert(double* variances, double eps) const;
  py::object new_vector(DType dtype, double* values) const;

  // A mask of one bit per element, in the memory order of an array that lies like the input.
  void set_mask(const TensorView& mask);
  py::object new_mask();
  std::optional<TensorView> mask_view(py::handle object) const;

  void run_forward();
  void run_backward();

  NormLayout layout{};

private:
  std::optional<Doubles> vectors_;
  bool seen_vector_ = false;
  py::object owners_[5];
  int owner_count_ = 0;

  bool split_planes(int64_t threads) const;

  bool split_rows(int64_t threads, int arrays);
};

// Raises unless `eps` and the number of values allow a normalization. Texts are torch's.
void check_eps(const NormCall& call, bool training, double eps);

// Raises unless both are there, as evaluation mode needs.
void check_defined(py::handle running_mean, py::handle running_var, const char* operation);

// Whether forward saves a mask for backward.
inline bool saves_mask(const BatchNormArgs& args, bool with_residual) {
  return rectifies(args) && with_residual;
}

// The operands that every backward takes, checked.
struct NormBackwardOperands {
  std::optional<TensorView> grad_output, weight, bias, residual, mask;

  NormBackwardOperands(NormCall& call, py::handle grad_object, py::handle weight_object,
                       py::handle bias_object, py::handle activation, double negative_slope,
                       py::handle residual_object, py::handle mask_object);
  void set(NormCall& call) const;
};

// New arrays for the gradients that are wanted; None for the others.
struct NormGradients {
  py::object input = py::none(), residual = py::none();

  NormGradients(NormCall& call, bool want_input, bool want_residual);
};

} // namespace dlk
