// The structs of DLPack 1.3 that are exchanged with other libraries: their layout is the contract,
// https://dmlc.github.io/dlpack/latest/c_api.html.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dlk::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr uint32_t kMinorVersion = 3;

constexpr int32_t kDeviceCpu = 1;

enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

constexpr uint64_t kFlagReadOnly = 1;
constexpr uint64_t kFlagIsCopied = 2;

// Names of the capsules; a consumer renames the one it took.
constexpr const char* kCapsuleName = "dltensor";
constexpr const char* kUsedCapsuleName = "used_dltensor";
constexpr const char* kVersionedCapsuleName = "dltensor_versioned";
constexpr const char* kUsedVersionedCapsuleName = "used_dltensor_versioned";
constexpr const char* kExchangeAttribute = "__dlpack_c_exchange_api__";
constexpr const char* kExchangeCapsuleName = "dlpack_exchange_api";

struct Version {
  uint32_t major, minor;
};

struct Device {
  int32_t type, id;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides; // in elements; before DLPack 1.2 nullptr meant row-major
  uint64_t byte_offset;
};

// Before DLPack 1.0.
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor* self);
};

struct ManagedTensorVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned* self);
  uint64_t flags;
  Tensor tensor;
};

// The functions behind a type's `__dlpack_c_exchange_api__`. They return 0, or -1 with a Python
// error set, and never synchronise with a device.
struct ExchangeApi {
  struct Header {
    Version version;
    Header* previous;
  } header;
  using SetError = void (*)(void* context, const char* kind, const char* message);
  int (*allocate)(Tensor* prototype, ManagedTensorVersioned** out, void* error_context, SetError);
  int (*managed_tensor_from_object)(void* object, ManagedTensorVersioned** out);
  int (*managed_tensor_to_object)(ManagedTensorVersioned* tensor, void** out_object); // steals
  int (*tensor_from_object)(void* object, Tensor* out); // borrows from the object; may be nullptr
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out_stream);
};

static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, byte_offset) == 40, "DLPack layout");
static_assert(sizeof(ManagedTensor) == 64, "DLPack layout");
static_assert(offsetof(ManagedTensorVersioned, tensor) == 32, "DLPack layout");
static_assert(offsetof(ExchangeApi, allocate) == 16, "DLPack layout");

} // namespace dlk::dlpack
