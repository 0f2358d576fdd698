// A torch tensor's fields in a few nanoseconds, through functions that torch's libraries export,
// for lists of thousands of tensors that every step reads. A handle, made once for each tensor,
// points at an at::Tensor. The same through Python (the gradient, a view of it, its version
// counter) costs 100 ns.
#pragma once

#include "bindings/arrays/tensor.h"

#include <cstring>
#include <vector>

namespace dlk {

// Whether this torch has the functions; without them nothing below may be used.
bool torch_handles_available();

// A tensor that its caller keeps alive.
class TorchTensor {
public:
  explicit TorchTensor(void* tensor = nullptr) : tensor_(tensor) {}

  // The address of a row-major CPU tensor of this dtype and shape, not negated; nullptr if it is
  // anything else by now (`tensor.data = ...` puts other memory under the same tensor).
  void* data(DType dtype, int ndim, const int64_t* shape) const;

  // Its gradient, kept alive by it; nothing where `tensor.grad` is None.
  TorchTensor grad() const;

  explicit operator bool() const { return tensor_ != nullptr; }

  // Whether the same tensor is at this address too.
  bool is_at(const void* tensor) const { return std::memcmp(tensor, tensor_, sizeof(void*)) == 0; }

  // Increments the version counter, by which autograd notices a write.
  void increment_version() const;

  // Starts to fetch the fields; later, when they have come, what they point at (storage, version
  // and autograd's part stand among the first). Nothing depends on what is fetched.
  void fetch() const {
    if (!tensor_)
      return;
    const char* fields = *static_cast<const char* const*>(tensor_);
    __builtin_prefetch(fields);
    __builtin_prefetch(fields + 64);
    __builtin_prefetch(fields + 128);
  }
  void fetch_linked() const {
    if (!tensor_)
      return;
    const void* const* fields = *static_cast<const void* const* const*>(tensor_);
    for (int field = 2; field < 6; ++field)
      __builtin_prefetch(fields[field]);
  }

protected:
  void* tensor_;
};

// Where a Python tensor has its at::Tensor: bytes from the object's start; 0 if that is not found.
size_t tensor_place(py::handle tensor);

// Whether the negative bit of an at::Tensor is set. Its memory then holds the negated values, which
// DLPack has no field for.
bool is_negated(const void* tensor);

// Owns one reference to a tensor.
class TorchHandle : public TorchTensor {
public:
  TorchHandle() = default;
  TorchHandle(void* tensor, bool is_inference) : TorchTensor(tensor), is_inference_(is_inference) {}
  explicit TorchHandle(TorchTensor tensor); // one more reference
  TorchHandle(TorchHandle&& other) noexcept { *this = std::move(other); }
  TorchHandle& operator=(TorchHandle&& other) noexcept {
    std::swap(tensor_, other.tensor_);
    std::swap(is_inference_, other.is_inference_);
    return *this;
  }
  ~TorchHandle();

  // The same; inference tensors have no version counter.
  void increment_version() const {
    if (tensor_ && !is_inference_)
      TorchTensor::increment_version();
  }

private:
  bool is_inference_ = false;
};

// One handle for each tensor of a list.
std::vector<TorchHandle> torch_handles(const py::list& tensors);

} // namespace dlk
