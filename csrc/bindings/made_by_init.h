// A base of classes that Python sees. pybind11 gives an object that was made by `__new__` alone the
// memory of its class when it is first used, and leaves it as it is. Of these classes there is
// none: such an object is refused.
#pragma once

#include "runtime/check.h"

#include <cstddef>
#include <memory>
#include <utility>

namespace dlk {

struct MadeByInit {
  static void* operator new(size_t) { throw TypeError("the object's __init__ was not called"); }
  static void* operator new(size_t, void* place) { return place; }
};

// What makes one, for py::init and py::cast.
template <class Class, class... Arguments>
std::unique_ptr<Class> make_by_init(Arguments&&... args) {
  return std::unique_ptr<Class>(::new Class(std::forward<Arguments>(args)...));
}

} // namespace dlk
