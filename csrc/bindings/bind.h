// How a file of bindings adds its functions to the module by itself:
//
//   DLK_BINDINGS(module) {
//     module.def("name", &function);
//   }
//
// Adding such a file edits no other. The order in which files are called is not defined.
#pragma once

#include <pybind11/pybind11.h>

namespace dlk {

class Bindings {
public:
  using Add = void (*)(pybind11::module_&);
  explicit Bindings(Add add) : add_(add), next_(first_) { first_ = this; }

  static void add_all(pybind11::module_& module) {
    for (const Bindings* bindings = first_; bindings; bindings = bindings->next_)
      bindings->add_(module);
  }

private:
  Add add_;
  const Bindings* next_;
  inline static const Bindings* first_ = nullptr; // set before any constructor runs
};

} // namespace dlk

#define DLK_BINDINGS(module)                                                                       \
  static void add_bindings(pybind11::module_& module);                                             \
  static const ::dlk::Bindings bindings_of_this_file(add_bindings);                                \
  static void add_bindings(pybind11::module_& module)
