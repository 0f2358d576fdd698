#include "bindings/torch_internals/torch_handle.h"

#include <algorithm>
#include <dlfcn.h>
#include <new>

namespace dlk {
namespace {

constexpr int kHandleDTypes = int(DType::int16) + 1;

// The first ones are torch's C interface to compiled models: they return 0, or an error. The last
// three are C++: at::Tensor is one pointer, to its TensorImpl, and all pass and return references.
struct Functions {
  int32_t (*device_type_cpu)();
  int32_t (*dtypes[kHandleDTypes])() = {}; // by DType; nullptr for those that are not asked for
  int32_t (*get_data_ptr)(void* tensor, void** data);
  int32_t (*get_device_type)(void* tensor, int32_t* type);
  int32_t (*get_dtype)(void* tensor, int32_t* dtype);
  int32_t (*get_dim)(void* tensor, int64_t* ndim);
  int32_t (*get_sizes)(void* tensor, int64_t** sizes);
  int32_t (*is_contiguous)(void* tensor, bool* contiguous);
  int32_t (*delete_tensor_object)(void* tensor);
  int32_t (*is_defined)(void* tensor, bool* defined);
  int32_t (*new_tensor_handle)(void* tensor, void** handle);
  void (*bump_version)(const void* tensor);
  void* (*grad)(const void* tensor_impl);
  bool (*is_neg)(const void* tensor);

  int32_t cpu = 0, codes[kHandleDTypes] = {};
  bool found = true;

  template <class Function> void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    found = found && function;
  }

  Functions() {
    void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    found = library != nullptr;
    if (!found)
      return;
    find(library, "aoti_torch_device_type_cpu", device_type_cpu);
    find(library, "aoti_torch_dtype_float32", dtypes[int(DType::float32)]);
    find(library, "aoti_torch_dtype_float64", dtypes[int(DType::float64)]);
    find(library, "aoti_torch_dtype_bfloat16", dtypes[int(DType::bfloat16)]);
    find(library, "aoti_torch_dtype_float16", dtypes[int(DType::float16)]);
    find(library, "aoti_torch_dtype_uint8", dtypes[int(DType::uint8)]);
    find(library, "aoti_torch_dtype_int16", dtypes[int(DType::int16)]);
    find(library, "aoti_torch_get_data_ptr", get_data_ptr);
    find(library, "aoti_torch_get_device_type", get_device_type);
    find(library, "aoti_torch_get_dtype", get_dtype);
    find(library, "aoti_torch_get_dim", get_dim);
    find(library, "aoti_torch_get_sizes", get_sizes);
    find(library, "aoti_torch_is_contiguous", is_contiguous);
    find(library, "aoti_torch_delete_tensor_object", delete_tensor_object);
    find(library, "aoti_torch_is_defined", is_defined);
    find(library, "aoti_torch_new_tensor_handle", new_tensor_handle);
    find(library, "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE", bump_version);
    find(library, "_ZNK3c1010TensorImpl4gradEv", grad);
    find(library, "_ZN2at6native6is_negERKNS_6TensorE", is_neg);
    if (!found)
      return;
    cpu = device_type_cpu();
    for (int dtype = 0; dtype < kHandleDTypes; ++dtype)
      codes[dtype] = dtypes[dtype] ? dtypes[dtype]() : -1;
  }
};

// Looked up when first asked for, which is after torch was imported.
const Functions& functions() {
  static const Functions found;
  return found;
}

py::list addresses_of(const py::list& tensors) {
  return py::module_::import("torch._C._aoti").attr("unsafe_alloc_void_ptrs_from_tensors")(tensors);
}

} // namespace

bool torch_handles_available() {
  return functions().found;
}

TorchHandle::~TorchHandle() {
  if (tensor_)
    functions().delete_tensor_object(tensor_);
}

TorchHandle::TorchHandle(TorchTensor tensor) : TorchTensor(tensor) {
  if (tensor_ && functions().new_tensor_handle(tensor_, &tensor_))
    throw std::bad_alloc();
}

TorchTensor TorchTensor::grad() const {
  const Functions& torch = functions();
  void* grad = torch.grad(*static_cast<void* const*>(tensor_));
  bool defined = false;
  return TorchTensor(torch.is_defined(grad, &defined) == 0 && defined ? grad : nullptr);
}

void* TorchTensor::data(DType dtype, int ndim, const int64_t* shape) const {
  const Functions& torch = functions();
  int32_t device, code;
  int64_t own_ndim, *own_shape;
  bool contiguous;
  void* data;
  if (torch.get_device_type(tensor_, &device) || device != torch.cpu ||
      torch.get_dtype(tensor_, &code) || code != torch.codes[int(dtype)] ||
      torch.get_dim(tensor_, &own_ndim) || own_ndim != ndim ||
      torch.get_sizes(tensor_, &own_shape) || !std::equal(shape, shape + ndim, own_shape) ||
      torch.is_contiguous(tensor_, &contiguous) || !contiguous || torch.is_neg(tensor_) ||
      torch.get_data_ptr(tensor_, &data))
    return nullptr;
  return data;
}

void TorchTensor::increment_version() const {
  functions().bump_version(tensor_);
}

size_t tensor_place(py::handle tensor) {
  if (!functions().found)
    return 0;
  py::list one;
  one.append(tensor);
  const py::list address = addresses_of(one);
  const TorchHandle handle(PyCapsule_GetPointer(PyList_GET_ITEM(address.ptr(), 0), nullptr), true);
  // The object's own part is that of the first type after `object`.
  PyTypeObject* base = Py_TYPE(tensor.ptr());
  while (base->tp_base && base->tp_base != &PyBaseObject_Type)
    base = base->tp_base;
  for (size_t place = sizeof(PyObject); place + sizeof(void*) <= size_t(base->tp_basicsize);
       place += sizeof(void*)) {
    const auto* bytes = reinterpret_cast<const char*>(tensor.ptr()) + place;
    if (handle.is_at(bytes))
      return place;
  }
  return 0;
}

bool is_negated(const void* tensor) {
  return functions().is_neg(tensor);
}

std::vector<TorchHandle> torch_handles(const py::list& tensors) {
  const py::list addresses = addresses_of(tensors);
  std::vector<TorchHandle> handles;
  handles.reserve(addresses.size());
  for (size_t index = 0; index < tensors.size(); ++index)
    handles.emplace_back(PyCapsule_GetPointer(PyList_GET_ITEM(addresses.ptr(), index), nullptr),
                         tensors[index].attr("is_inference")().cast<bool>());
  return handles;
}

} // namespace dlk
