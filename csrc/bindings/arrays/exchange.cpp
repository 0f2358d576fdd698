#include "bindings/arrays/exchange.h"

#include "bindings/torch_internals/torch_handle.h"
#include "bindings/torch_internals/torch_storage.h"

#include <atomic>
#include <mutex>

namespace dlk {
namespace {

// Types that offer the exchange API, in an open-addressed table that is only ever added to: readers
// need no lock, with or without the GIL. Types that do not fit are looked up at each call.
struct Slot {
  std::atomic<PyTypeObject*> type{nullptr};
  ExchangeType exchange{};
};
constexpr size_t kSlots = 64;
Slot slots[kSlots];
std::mutex slots_mutex;

size_t first_slot(PyTypeObject* type) {
  const auto address = reinterpret_cast<uintptr_t>(type);
  return (address >> 4 ^ address >> 12) % kSlots;
}

ExchangeType look_up(py::handle object) {
  const py::handle type = py::type::handle_of(object);
  if (!PyObject_HasAttrString(type.ptr(), dlpack::kExchangeAttribute))
    return {};
  const py::object capsule = type.attr(dlpack::kExchangeAttribute);
  auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeCapsuleName));
  if (api == nullptr)
    PyErr_Clear();
  // A newer major version may offer the one that is spoken here further down the chain.
  while (api != nullptr && api->header.version.major != dlpack::kMajorVersion)
    api = reinterpret_cast<const dlpack::ExchangeApi*>(api->header.previous);
  if (api == nullptr)
    return {};
  const bool is_torch = is_torch_tensor(object);
  PyObject* is_neg = PyObject_GetAttrString(type.ptr(), "is_neg");
  if (is_neg == nullptr) {
    PyErr_Clear();
    return {api, nullptr, 0, is_torch};
  }
  const size_t place = tensor_place(object);
  if (is_torch)
    find_storage_fields(place);
  return {api, is_neg, place, is_torch};
}

enum NumpyTypeNumber { kNumpyHalf = 23 }; // part of NumPy's ABI, as are the first 13 below

constexpr DType kIntegerOfLong = sizeof(long) == 8 ? DType::int64 : DType::int32;
constexpr DType kUnsignedOfLong = sizeof(long) == 8 ? DType::uint64 : DType::uint32;
constexpr DType kNumpyTypes[] = {
    DType::bool8,  DType::int8,    DType::uint8,   DType::int16,    DType::uint16,
    DType::int32,  DType::uint32,  kIntegerOfLong, kUnsignedOfLong, DType::int64,
    DType::uint64, DType::float32, DType::float64,
};
constexpr int kNumpyTypeCount = sizeof(kNumpyTypes) / sizeof(kNumpyTypes[0]);

// The number ml_dtypes' bfloat16 got when it registered itself.
std::atomic<int> bfloat16_number{-1};

} // namespace

bool is_torch_tensor(py::handle object) {
  const py::dict modules = py::module_::import("sys").attr("modules");
  if (!modules.contains("torch") || !py::hasattr(modules["torch"], "Tensor"))
    return false;
  return py::isinstance(object, modules["torch"].attr("Tensor"));
}

ExchangeType exchange_type(py::handle object) {
  PyTypeObject* const type = Py_TYPE(object.ptr());
  size_t slot = first_slot(type);
  for (size_t step = 0; step < kSlots; ++step, slot = (slot + 1) % kSlots) {
    PyTypeObject* known = slots[slot].type.load(std::memory_order_acquire);
    if (known == type)
      return slots[slot].exchange;
    if (known == nullptr)
      break;
  }
  const ExchangeType found = look_up(object);
  if (found.api == nullptr)
    return found;
  const std::lock_guard<std::mutex> lock(slots_mutex);
  slot = first_slot(type);
  for (size_t step = 0; step < kSlots; ++step, slot = (slot + 1) % kSlots) {
    PyTypeObject* known = slots[slot].type.load(std::memory_order_relaxed);
    if (known == type)
      break;
    if (known == nullptr) {
      Py_INCREF(type); // for good: a slot never changes
      slots[slot].exchange = found;
      slots[slot].type.store(type, std::memory_order_release);
      break;
    }
  }
  return found;
}

bool is_negated(py::handle object, const ExchangeType& type) {
  if (type.tensor_place)
    return is_negated(reinterpret_cast<const char*>(object.ptr()) + type.tensor_place);
  if (!type.is_neg)
    return false;
  PyObject* arguments[] = {object.ptr()};
  const auto negated =
      py::reinterpret_steal<py::object>(PyObject_Vectorcall(type.is_neg, arguments, 1, nullptr));
  if (!negated)
    throw py::error_already_set();
  return negated.ptr() == Py_True;
}

std::string take_python_error() {
  const py::error_already_set error;
  const std::string message = py::str(error.value());
  return message.substr(0, message.find('\n'));
}

dlpack::DataType dlpack_type(DType dtype) {
  uint8_t code = dlpack::kUInt;
  switch (dtype) {
  case DType::float32:
  case DType::float64:
  case DType::float16:
    code = dlpack::kFloat;
    break;
  case DType::bfloat16:
    code = dlpack::kBfloat;
    break;
  case DType::bool8:
    code = dlpack::kBool;
    break;
  case DType::int8:
  case DType::int16:
  case DType::int32:
  case DType::int64:
    code = dlpack::kInt;
    break;
  default:
    break;
  }
  return {code, static_cast<uint8_t>(item_size(dtype) * 8), 1};
}

bool dtype_from_dlpack(dlpack::DataType type, DType& dtype) {
  if (type.lanes != 1)
    return false;
  switch (type.code << 8 | type.bits) {
  case dlpack::kFloat << 8 | 32:
    dtype = DType::float32;
    return true;
  case dlpack::kFloat << 8 | 64:
    dtype = DType::float64;
    return true;
  case dlpack::kFloat << 8 | 16:
    dtype = DType::float16;
    return true;
  case dlpack::kBfloat << 8 | 16:
    dtype = DType::bfloat16;
    return true;
  case dlpack::kBool << 8 | 8:
    dtype = DType::bool8;
    return true;
  case dlpack::kInt << 8 | 8:
    dtype = DType::int8;
    return true;
  case dlpack::kInt << 8 | 16:
    dtype = DType::int16;
    return true;
  case dlpack::kInt << 8 | 32:
    dtype = DType::int32;
    return true;
  case dlpack::kInt << 8 | 64:
    dtype = DType::int64;
    return true;
  case dlpack::kUInt << 8 | 8:
    dtype = DType::uint8;
    return true;
  case dlpack::kUInt << 8 | 16:
    dtype = DType::uint16;
    return true;
  case dlpack::kUInt << 8 | 32:
    dtype = DType::uint32;
    return true;
  case dlpack::kUInt << 8 | 64:
    dtype = DType::uint64;
    return true;
  default:
    return false;
  }
}

py::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
  case DType::bfloat16: {
    // Kept for good, like the type itself.
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> bfloat16;
    return py::reinterpret_borrow<py::dtype>(
        bfloat16
            .call_once_and_store_result([] {
              try {
                return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"))
                    .cast<py::object>();
              } catch (py::error_already_set&) {
                throw TypeError("bfloat16 NumPy arrays need the ml_dtypes package");
              }
            })
            .get_stored());
  }
  case DType::float16:
    return py::dtype(kNumpyHalf);
  default:
    for (int number = 0; number < kNumpyTypeCount; ++number)
      if (kNumpyTypes[number] == dtype)
        return py::dtype(number);
    throw TypeError("no NumPy dtype");
  }
}

bool dtype_from_numpy(const py::dtype& numpy, DType& dtype) {
  const int number = numpy.num();
  if (number >= 0 && number < kNumpyTypeCount) {
    dtype = kNumpyTypes[number];
    return true;
  }
  if (number == kNumpyHalf) {
    dtype = DType::float16;
    return true;
  }
  if (number == bfloat16_number.load(std::memory_order_relaxed)) {
    dtype = DType::bfloat16;
    return true;
  }
  constexpr int kFirstUserType = 256;
  if (number < kFirstUserType || numpy.itemsize() != 2 ||
      !py::str(numpy.attr("type").attr("__name__")).equal(py::str("bfloat16")))
    return false;
  bfloat16_number.store(number, std::memory_order_relaxed);
  dtype = DType::bfloat16;
  return true;
}

void fill_row_major(int ndim, const int64_t* shape, int64_t* strides) {
  int64_t stride = 1;
  for (int dim = ndim - 1; dim >= 0; --dim) {
    strides[dim] = stride;
    stride *= shape[dim] > 0 ? shape[dim] : 1;
  }
}

} // namespace dlk
