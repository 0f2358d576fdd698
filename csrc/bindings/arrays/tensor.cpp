// Arrays in: what a view is, and how it is read from each kind of array.
#include "bindings/arguments.h"
#include "bindings/arrays/exchange.h"

#include <algorithm>
#include <cstdlib>

namespace dlk {
namespace {

std::string dlpack_type_text(dlpack::DataType type) {
  const char* kind = type.code == dlpack::kComplex ? "complex"
                     : type.code == dlpack::kFloat ? "float"
                     : type.code == dlpack::kInt   ? "int"
                     : type.code == dlpack::kUInt  ? "uint"
                                                   : nullptr;
  const std::string lanes = type.lanes == 1 ? "" : text("x", type.lanes);
  if (kind)
    return text(kind, int{type.bits}, lanes);
  return text("DLPack type code ", int{type.code}, " of ", int{type.bits}, " bits", lanes);
}

[[noreturn]] void refuse_dtype(const char* operation, const char* argument,
                               const std::string& got) {
  throw TypeError(text(operation, ": ", argument,
                       ": expected a real floating-point, integer or bool dtype, got ", got));
}

void check_ndim(int ndim, const char* operation, const char* argument) {
  DLK_CHECK(ndim >= 0 && ndim <= kMaxDims, operation, ": ", argument, ": expected at most ",
            kMaxDims, " dimensions, got ", ndim);
}

void read_dlpack(const dlpack::Tensor& tensor, TensorView& view, const char* operation,
                 const char* argument) {
  DLK_CHECK_TYPE(tensor.device.type == dlpack::kDeviceCpu, operation, ": ", argument,
                 ": expected an array in CPU memory, got one on another device (DLPack device ",
                 tensor.device.type, ":", tensor.device.id, ")");
  if (!dtype_from_dlpack(tensor.dtype, view.dtype))
    refuse_dtype(operation, argument, dlpack_type_text(tensor.dtype));
  check_ndim(tensor.ndim, operation, argument);
  view.ndim = tensor.ndim;
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  std::copy_n(tensor.shape, tensor.ndim, view.shape);
  if (tensor.strides)
    std::copy_n(tensor.strides, tensor.ndim, view.strides);
  else
    fill_row_major(view.ndim, view.shape, view.strides);
  DLK_CHECK_TYPE(tensor.data != nullptr || view.size() == 0, operation, ": ", argument,
                 ": expected an array with memory of its own, got one without data");
}

Access access_of(uint64_t dlpack_flags) {
  return dlpack_flags & dlpack::kFlagReadOnly   ? Access::readonly
         : dlpack_flags & dlpack::kFlagIsCopied ? Access::copied
                                                : Access::writable;
}

void read_exchange(py::handle object, const ExchangeType& type, TensorView& view,
                   const char* operation, const char* argument) {
  dlpack::Tensor tensor;
  if (type.api->tensor_from_object) {
    if (type.api->tensor_from_object(object.ptr(), &tensor) != 0)
      throw TypeError(text(operation, ": ", argument, ": expected a dense CPU array, got ",
                           type_text(object), ", which cannot be read: ", take_python_error()));
    view.owner = py::reinterpret_borrow<py::object>(object);
    view.access = type.is_torch ? Access::writable : Access::unknown;
    read_dlpack(tensor, view, operation, argument);
  } else {
    dlpack::ManagedTensorVersioned* managed = nullptr;
    if (type.api->managed_tensor_from_object(object.ptr(), &managed) != 0)
      throw TypeError(text(operation, ": ", argument, ": expected a dense CPU array, got ",
                           type_text(object), ", which cannot be read: ", take_python_error()));
    view.owner = py::capsule(managed, [](void* pointer) {
      auto* held = static_cast<dlpack::ManagedTensorVersioned*>(pointer);
      if (held->deleter)
        held->deleter(held);
    });
    view.access = access_of(managed->flags);
    read_dlpack(managed->tensor, view, operation, argument);
  }
  view.kind = ArrayKind::exchange;
  DLK_CHECK_TYPE(!is_negated(object, type), operation, ": ", argument,
                 ": expected a tensor without the negative bit, got one with it; call "
                 "resolve_neg() first");
}

void read_numpy(const py::array& array, TensorView& view, const char* operation,
                const char* argument) {
  const py::dtype dtype = array.dtype();
  if (!dtype_from_numpy(dtype, view.dtype))
    refuse_dtype(operation, argument, py::str(dtype));
  const char order = dtype.byteorder();
  if (order != '=' && order != '|')
    throw TypeError(text(operation, ": ", argument,
                         ": expected the machine's byte order, got dtype ",
                         std::string(py::str(dtype))));
  check_ndim(static_cast<int>(array.ndim()), operation, argument);
  view.kind = ArrayKind::numpy;
  view.ndim = static_cast<int>(array.ndim());
  view.data = const_cast<void*>(array.data());
  view.access = array.writeable() ? Access::writable : Access::readonly;
  view.owner = array;
  const int64_t item_bytes = item_size(view.dtype);
  for (int dim = 0; dim < view.ndim; ++dim) {
    const int64_t stride_bytes = array.strides()[dim];
    view.shape[dim] = array.shape()[dim];
    // The stride of a dimension of one element is never used, and NumPy may leave anything there.
    DLK_CHECK(stride_bytes % item_bytes == 0 || view.shape[dim] <= 1, operation, ": ", argument,
              ": expected strides in whole elements of ", item_bytes, " bytes, got ", stride_bytes,
              " bytes");
    view.strides[dim] = stride_bytes / item_bytes;
  }
}

// A masked array's mask would be lost silently.
bool is_masked_array(py::handle object) {
  if (Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_)
    return false;
  const py::dict modules = py::module_::import("sys").attr("modules");
  return modules.contains("numpy.ma") &&
         py::isinstance(object, modules["numpy.ma"].attr("MaskedArray"));
}

template <class Managed> py::object take_over(py::handle capsule, const char* used_name) {
  auto* managed =
      static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), PyCapsule_GetName(capsule.ptr())));
  py::object owner = py::capsule(managed, [](void* pointer) {
    auto* held = static_cast<Managed*>(pointer);
    if (held->deleter)
      held->deleter(held);
  });
  PyCapsule_SetName(capsule.ptr(), used_name);
  PyCapsule_SetDestructor(capsule.ptr(), nullptr);
  return owner;
}

// What `__dlpack_device__` gave: (type, number), the type an enum in some libraries.
void check_device(const py::object& device, const std::string& type, const char* operation,
                  const char* argument) {
  int64_t numbers[2];
  bool is_pair = PyTuple_Check(device.ptr()) && PyTuple_GET_SIZE(device.ptr()) == 2;
  for (int which = 0; is_pair && which < 2; ++which) {
    numbers[which] = PyLong_AsLongLong(PyTuple_GET_ITEM(device.ptr(), which));
    is_pair = !PyErr_Occurred();
    PyErr_Clear();
  }
  DLK_CHECK_TYPE(is_pair, operation, ": ", argument, ": expected an array, got ", type,
                 ", whose __dlpack_device__ gives no pair of integers");
  DLK_CHECK_TYPE(numbers[0] == dlpack::kDeviceCpu, operation, ": ", argument,
                 ": expected an array in CPU memory, got one on another device (DLPack device ",
                 numbers[0], ":", numbers[1], ")");
}

void read_capsule(py::handle object, TensorView& view, const char* operation,
                  const char* argument) {
  py::object capsule;
  try {
    check_device(object.attr("__dlpack_device__")(), type_text(object), operation, argument);
    const py::object dlpack = object.attr("__dlpack__");
    try {
      using namespace py::literals;
      capsule =
          dlpack("max_version"_a = py::make_tuple(dlpack::kMajorVersion, dlpack::kMinorVersion));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) // it is older than the argument
        throw;
      capsule = dlpack();
    }
  } catch (py::error_already_set& error) {
    throw TypeError(text(operation, ": ", argument, ": expected a dense CPU array, got ",
                         type_text(object),
                         ", which cannot be read: ", std::string(py::str(error.value()))));
  }
  view.kind = ArrayKind::dlpack;
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kVersionedCapsuleName)) {
    const auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), dlpack::kVersionedCapsuleName));
    DLK_CHECK_TYPE(managed->version.major == dlpack::kMajorVersion, operation, ": ", argument,
                   ": expected DLPack version ", dlpack::kMajorVersion, ", got ",
                   managed->version.major);
    view.owner =
        take_over<dlpack::ManagedTensorVersioned>(capsule, dlpack::kUsedVersionedCapsuleName);
    view.access = access_of(managed->flags);
    read_dlpack(managed->tensor, view, operation, argument);
  } else if (PyCapsule_IsValid(capsule.ptr(), dlpack::kCapsuleName)) {
    const auto* managed = static_cast<dlpack::ManagedTensor*>(
        PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsuleName));
    view.owner = take_over<dlpack::ManagedTensor>(capsule, dlpack::kUsedCapsuleName);
    view.access = is_torch_tensor(object) ? Access::writable : Access::unknown;
    read_dlpack(managed->tensor, view, operation, argument);
  } else {
    throw TypeError(text(operation, ": ", argument, ": expected a DLPack capsule from ",
                         type_text(object), ", got ", type_text(capsule)));
  }
}

} // namespace

int64_t TensorView::size() const {
  int64_t elems = 1;
  for (int dim = 0; dim < ndim; ++dim)
    elems *= shape[dim];
  return elems;
}

bool TensorView::contiguous() const {
  int64_t expected = 1;
  bool matches = true;
  for (int dim = ndim - 1; dim >= 0; --dim) {
    if (shape[dim] == 0)
      return true;
    matches = matches && (shape[dim] == 1 || strides[dim] == expected);
    expected *= shape[dim];
  }
  return matches;
}

bool TensorView::dense() const {
  if (contiguous())
    return true;
  // Dimensions of one element do not count; of the rest, the next is the one whose stride is the
  // size of those before. Sizes are at least 2, so no two share a stride.
  int64_t expected = 1;
  const int64_t elems = size();
  while (expected < elems) {
    int dim = 0;
    while (dim < ndim && (shape[dim] <= 1 || strides[dim] != expected))
      ++dim;
    if (dim == ndim)
      return false;
    expected *= shape[dim];
  }
  return true;
}

TensorView view_of(py::handle object, const char* operation, const char* argument) {
  TensorView view;
  view.array = py::reinterpret_borrow<py::object>(object);
  if (py::isinstance<py::array>(object)) {
    DLK_CHECK_TYPE(!is_masked_array(object), operation, ": ", argument,
                   ": expected a plain array, got a masked array; fill it first");
    read_numpy(py::reinterpret_borrow<py::array>(object), view, operation, argument);
  } else if (const ExchangeType type = exchange_type(object); type.api) {
    read_exchange(object, type, view, operation, argument);
  } else if (py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__")) {
    read_capsule(object, view, operation, argument);
  } else {
    throw TypeError(
        text(operation, ": ", argument, ": expected an array, got ", type_text(object)));
  }
  return view;
}

bool flat_view(py::handle object, FlatView& view) {
  const ExchangeType type = exchange_type(object);
  dlpack::Tensor tensor;
  if (!type.is_torch || !type.api->tensor_from_object || is_negated(object, type))
    return false;
  if (type.api->tensor_from_object(object.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  if (tensor.device.type != dlpack::kDeviceCpu || !tensor.data ||
      !dtype_from_dlpack(tensor.dtype, view.dtype))
    return false;
  view.size = 1;
  for (int dim = tensor.ndim - 1; dim >= 0; --dim) {
    if (tensor.shape[dim] != 1 && tensor.strides[dim] != view.size)
      return false;
    view.size *= tensor.shape[dim];
  }
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.shape = tensor.shape;
  view.ndim = tensor.ndim;
  return true;
}

// Access of arrays whose library states it in managed tensors alone.
static Access exchanged_access(py::handle object) {
  dlpack::ManagedTensorVersioned* managed = nullptr;
  const ExchangeType type = exchange_type(object);
  if (type.api->managed_tensor_from_object(object.ptr(), &managed) != 0) {
    PyErr_Clear();
    return Access::unknown;
  }
  const Access access = access_of(managed->flags);
  if (managed->deleter)
    managed->deleter(managed);
  return access;
}

TensorView output_view_of(py::handle object, const char* operation, const char* argument) {
  TensorView view = view_of(object, operation, argument);
  if (view.access == Access::unknown && view.kind == ArrayKind::exchange)
    view.access = exchanged_access(object);
  constexpr const char* expected = ": expected an array that can be written to, got ";
  DLK_CHECK(view.access != Access::readonly, operation, ": ", argument, expected,
            "a read-only one");
  DLK_CHECK(view.access != Access::copied, operation, ": ", argument, expected, type_text(object),
            ", which lends a copy of itself");
  DLK_CHECK(view.access != Access::unknown, operation, ": ", argument, expected, type_text(object),
            ", which does not say that it can be (by DLPack 1)");
  DLK_CHECK(!overlaps_itself(view), operation, ": ", argument,
            ": expected each element in a place of its own, got an array that overlaps itself "
            "(expanded, or a sliding window)");
  return view;
}

const char* dtype_name(DType dtype) {
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "float16", "bool",
                                    "uint8",   "int8",    "int16",    "uint16",  "int32",
                                    "uint32",  "int64",   "uint64"};
  return kNames[static_cast<int>(dtype)];
}

std::string shape_text(int ndim, const int64_t* shape) {
  std::string all = "(";
  for (int dim = 0; dim < ndim; ++dim)
    all += (dim ? ", " : "") + std::to_string(shape[dim]);
  return all + (ndim == 1 ? ",)" : ")");
}

std::string size_text(int ndim, const int64_t* shape) {
  std::string list = "[";
  for (int dim = 0; dim < ndim; ++dim)
    list += text(dim ? ", " : "", shape[dim]);
  return list + "]";
}

std::string shape_text(const TensorView& view) {
  return shape_text(view.ndim, view.shape);
}

} // namespace dlk
