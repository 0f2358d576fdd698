#include "bindings/torch_internals/torch_storage.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <dlfcn.h>

namespace dlk {
namespace {

namespace py = pybind11;

// Where c10::TensorImpl has its StorageImpl, and that its flag and its allocator (torch 2.13: bytes
// 16, 57 and 72).
struct StorageFields {
  size_t storage, resizable, allocator;
  void* cpu_allocator;
};
std::atomic<const StorageFields*> known{nullptr}; // for good, once they are found

// Both objects are larger than this.
constexpr size_t kSearchedBytes = 80;
constexpr size_t kFirstByte = 16; // after the table of virtual functions and the reference count

template <class T> T read(const char* object, size_t place) {
  T value;
  std::memcpy(&value, object + place, sizeof(T));
  return value;
}

const char* tensor_of(py::handle tensor, size_t tensor_place) {
  return read<const char*>(reinterpret_cast<const char*>(tensor.ptr()), tensor_place);
}

// torch's allocator; nullptr if this torch does not export it.
void* cpu_allocator() {
  void* library = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
  const auto get = library
                       ? reinterpret_cast<void* (*)()>(dlsym(library, "_ZN3c1015GetCPUAllocatorEv"))
                       : nullptr;
  return get ? get() : nullptr;
}

// The one place at which `fits` holds; 0 if there is none, or more than one.
template <class Fits> size_t only_place(size_t step, Fits fits) {
  size_t found = 0;
  for (size_t place = kFirstByte; place < kSearchedBytes; place += step)
    if (fits(place)) {
      if (found)
        return 0;
      found = place;
    }
  return found;
}

void make_resizable(py::handle tensor, size_t tensor_place, const StorageFields& fields) {
  char* storage = read<char*>(tensor_of(tensor, tensor_place), fields.storage);
  if (storage == nullptr)
    return;
  std::memcpy(storage + fields.allocator, &fields.cpu_allocator, sizeof(void*));
  storage[fields.resizable] = 1;
}

} // namespace

void find_storage_fields(size_t tensor_place) {
  if (known.load(std::memory_order_relaxed) || tensor_place == 0)
    return;
  try {
    using namespace py::literals;
    const py::module_ torch = py::module_::import("torch");
    const py::object bytes = torch.attr("uint8");
    // Two with memory of torch's, and two with that of others.
    py::object tensors[4];
    for (int which = 0; which < 4; ++which) {
      const int size = 8 << which;
      tensors[which] =
          which < 2 ? torch.attr("empty")(size, "dtype"_a = bytes, "device"_a = "cpu")
                    : torch.attr("frombuffer")(py::bytearray(std::string(size_t(size), '\0')),
                                               "dtype"_a = bytes);
      if (!py::type::of(tensors[which]).is(torch.attr("Tensor")))
        return; // under a mode that makes others
    }
    StorageFields found{};
    const char* storages[4];
    for (int which = 0; which < 4; ++which)
      storages[which] = reinterpret_cast<const char*>(
          tensors[which].attr("untyped_storage")().attr("_cdata").cast<uintptr_t>());
    found.storage = only_place(sizeof(void*), [&](size_t place) {
      for (int which = 0; which < 4; ++which)
        if (read<const char*>(tensor_of(tensors[which], tensor_place), place) != storages[which])
          return false;
      return true;
    });
    found.resizable = only_place(1, [&](size_t place) {
      return storages[0][place] == 1 && storages[1][place] == 1 && storages[2][place] == 0 &&
             storages[3][place] == 0;
    });
    found.cpu_allocator = cpu_allocator();
    found.allocator = only_place(sizeof(void*), [&](size_t place) {
      const auto at = [&](int which) { return read<void*>(storages[which], place); };
      return at(0) && at(0) == found.cpu_allocator && at(1) == at(0) && !at(2) && !at(3);
    });
    if (!found.storage || !found.resizable || !found.allocator)
      return;
    make_resizable(tensors[3], tensor_place, found);
    const py::object storage = tensors[3].attr("untyped_storage")();
    const auto bytes_after = [&](int size) {
      storage.attr("resize_")(size);
      return storage.attr("nbytes")().cast<int>();
    };
    if (storage.attr("resizable")().cast<bool>() && bytes_after(0) == 0 && bytes_after(96) == 96)
      known.store(new StorageFields(found), std::memory_order_release);
  } catch (py::error_already_set&) { // another torch than those it was seen on
  } catch (py::cast_error&) {
  }
}

void make_resizable(py::handle tensor, size_t tensor_place) {
  const StorageFields* fields = known.load(std::memory_order_acquire);
  if (fields && tensor_place)
    make_resizable(tensor, tensor_place, *fields);
}

} // namespace dlk
