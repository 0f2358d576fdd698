// What operations write: new arrays, or the `out` that was given, which is checked here.
#pragma once

#include "bindings/call.h"
#include "core/strided.h"

#include <initializer_list>

namespace dlk {

// An input, by the name that errors have for it; nullptr for one that was not given.
struct NamedView {
  const TensorView* view;
  const char* name;
};

// `out` to be written to. Raises unless it has this shape and dtype and either is exactly one of
// the inputs or shares no byte with it.
TensorView checked_output(py::handle out, const char* operation, int ndim, const int64_t* shape,
                          DType dtype, std::initializer_list<NamedView> inputs = {});

// A new array like `like`, or `out`.
struct Output {
  TensorView view;
  py::object array;

  Output(py::handle out, const char* operation, const TensorView& like,
         std::initializer_list<NamedView> inputs);

  // What the operation returns, once it is written.
  py::object result() const { return is_given ? array : returned(array); }

private:
  bool is_given;
};

// The output of an elementwise operation. The kernels go through memory from end to end, so input
// and output must have the same strides and no gaps; where they do not, the input is copied into
// the output's order and the kernel works in place there.
struct ElementwiseOutput {
  Output output;
  TensorView temporary;
  TensorView* flat = &output.view; // what the kernel writes
  const void* input;               // what it reads
  bool nontemporal;

  ElementwiseOutput(const TensorView& x, py::handle out, const char* operation);
  py::object finish();
};

// The same for a gradient: dx has the strides of x, and grad_output is brought into that order.
struct ElementwiseGradient {
  TensorView x, dx;
  const void* grad_output;
  bool nontemporal;

  ElementwiseGradient(const TensorView& grad, const TensorView& saved, const char* operation);

private:
  py::object copy_owner_;
};

// --- masks of one bit for each element

// Bytes of a mask in whole words of `word_bits` bits.
inline int64_t mask_bytes(int64_t bits, int64_t word_bits = 16) {
  return chunk_count(bits, word_bits) * (word_bits / 8);
}

// A mask of so many bytes that an earlier call made.
TensorView mask_view_of(py::handle object, const char* operation, const char* argument,
                        int64_t bytes, bool is_aligned = false);

} // namespace dlk
