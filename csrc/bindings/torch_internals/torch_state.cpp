// torch keeps modes, torch.func transforms and jit's tracer as dispatch keys that a thread has
// switched on, in a thread-local pair of words; checking each of them through Python takes
// longer than ReLU of a thousand elements. In a torch without these symbols no tensor is plain, and
// the Python side checks for itself.
#include "bindings/bind.h"
#include "bindings/torch_internals/profiled_range.h"

#include <cstdint>
#include <dlfcn.h>

namespace dlk {
namespace {

namespace py = pybind11;

// c10::impl::PODLocalDispatchKeySet: keys included and excluded, as differences from the default.
struct KeySet {
  uint64_t included, excluded;
};
constexpr int kMaxAccepted = 4;

// Written at import, under the GIL, read afterwards.
struct Watch {
  void* library = nullptr;
  int64_t (*function_modes)() = nullptr; // how many are on the stack
  PyTypeObject* types[2] = {};
  KeySet accepted[kMaxAccepted] = {};
  int accepted_count = 0;
};
Watch watch;

const KeySet* thread_keys() {
  static thread_local const auto* const keys =
      static_cast<const KeySet*>(dlsym(watch.library, "_ZN3c104impl26raw_local_dispatch_key_setE"));
  return keys;
}

bool is_accepted(KeySet keys) {
  for (int index = 0; index < watch.accepted_count; ++index)
    if (keys.included == watch.accepted[index].included &&
        keys.excluded == watch.accepted[index].excluded)
      return true;
  return false;
}

// Whether the first is a tensor, and the others are or are None, in a thread that has switched on
// nothing.
bool are_plain(PyObject* const* tensors, Py_ssize_t count) {
  for (Py_ssize_t index = 0; index < count; ++index) {
    PyTypeObject* type = Py_TYPE(tensors[index]);
    if (type != watch.types[0] && type != watch.types[1] &&
        (index == 0 || tensors[index] != Py_None))
      return false;
  }
  return count && watch.accepted_count && is_accepted(*thread_keys()) &&
         watch.function_modes() == 0;
}

// torch's C interface for what its profiler shows; both return 0, or an error.
int32_t (*record_start)(const char* name, void* kwargs, void* const* inputs, uint64_t input_count,
                        void** record) = nullptr;
int32_t (*record_end)(void* record) = nullptr;

template <class Function> Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

void find_profiler(void* torch) {
  record_start = symbol<decltype(record_start)>(torch, "aoti_record_function_start");
  record_end = symbol<decltype(record_end)>(torch, "aoti_record_function_end");
  if (record_start && record_end)
    torch_has_callbacks = symbol<bool (*)()>(torch, "_ZN2at12hasCallbacksEv");
}

// Sets the types whose tensors are plain in a thread that has nothing switched on. False where this
// torch lacks the symbols, or has something switched on now.
bool watch_torch(const py::type& tensor, const py::type& parameter) {
  watch.library = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
  void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch)
    find_profiler(torch);
  if (!watch.library || !torch || !thread_keys())
    return false;
  watch.function_modes =
      symbol<int64_t (*)()>(torch, "_ZN2at4impl22PythonTorchFunctionTLS9stack_lenEv");
  if (!watch.function_modes)
    return false;
  watch.types[0] = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr()); // for good
  watch.types[1] = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
  watch.accepted_count = 1;
  return is_accepted(*thread_keys());
}

// From now on tensors are plain too while exactly what is switched on now is switched on.
void accept_torch_state() {
  if (watch.accepted_count > 0 && watch.accepted_count < kMaxAccepted)
    watch.accepted[watch.accepted_count++] = *thread_keys();
}

} // namespace

bool (*torch_has_callbacks)() = nullptr;

void ProfiledRange::start(const char* operation) {
  const std::string name = std::string("dlkernels::") + operation;
  if (record_start(name.c_str(), nullptr, nullptr, 0, &record_) != 0)
    record_ = nullptr;
}

void ProfiledRange::finish() {
  record_end(record_);
}

DLK_BINDINGS(m) {
  m.def("watch_torch", &watch_torch,
        "Sets the two types whose tensors are plain; False where this torch cannot be asked.");
  m.def("accept_torch_state", &accept_torch_state,
        "What is switched on in torch now leaves tensors plain too.");
  // No FastFunction: its arguments are any number of tensors, or None.
  static PyMethodDef method = {
      "is_plain",
      reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(
          +[](PyObject*, PyObject* const* tensors, Py_ssize_t count) -> PyObject* {
            return PyBool_FromLong(are_plain(tensors, count));
          })),
      METH_FASTCALL, "is_plain(*tensors)\n--\n\nWhether all of these are plain tensors or None."};
  m.add_object("is_plain", py::reinterpret_steal<py::object>(PyCFunction_New(&method, nullptr)));
}

} // namespace dlk
