// torch keeps modes, torch.func transforms and jit's tracer as dispatch keys that a thread has
// switched on, in a thread-local pair of words; asking Python for each of them in turn takes longer
// than ReLU of a thousand elements. Where a torch has not these symbols, nothing is plain, and the
// Python side asks as before.
#include "bindings/bind.h"
#include "bindings/fast_call.h"

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

bool is_plain(PyObject* tensor) {
  return (Py_TYPE(tensor) == watch.types[0] || Py_TYPE(tensor) == watch.types[1]) &&
         is_accepted(*thread_keys()) && watch.function_modes() == 0;
}

// The types whose tensors are plain, in a thread that has switched nothing. False where this torch
// cannot be asked, or has something switched on now.
bool watch_torch(const py::type& tensor, const py::type& parameter) {
  watch.library = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
  void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!watch.library || !torch || !thread_keys())
    return false;
  watch.function_modes = reinterpret_cast<int64_t (*)()>(
      dlsym(torch, "_ZN2at4impl22PythonTorchFunctionTLS9stack_lenEv"));
  if (!watch.function_modes)
    return false;
  watch.types[0] = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr()); // for good
  watch.types[1] = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
  watch.accepted_count = 1;
  return is_accepted(*thread_keys());
}

// What is switched on now leaves tensors plain too.
void accept_torch_state() {
  if (watch.accepted_count > 0 && watch.accepted_count < kMaxAccepted)
    watch.accepted[watch.accepted_count++] = *thread_keys();
}

} // namespace

void bind_torch_state(py::module_& m) {
  m.def("watch_torch", &watch_torch);
  m.def("accept_torch_state", &accept_torch_state);
  static PyMethodDef method = {"is_plain",
                               [](PyObject*, PyObject* tensor) {
                                 return PyBool_FromLong(watch.accepted_count && is_plain(tensor));
                               },
                               METH_O, nullptr};
  def_fast(m, method);
}

} // namespace dlk
