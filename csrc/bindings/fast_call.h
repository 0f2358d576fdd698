// Functions that Python calls without pybind11's dispatcher in between: it takes longer than the
// whole work of some (150 ns), and where an argument has a wrong type it names neither operation
// nor argument.
#pragma once

#include "bindings/arguments.h"
#include "bindings/gil.h"

#include <algorithm>
#include <new>
#include <string>
#include <tuple>
#include <utility>

namespace dlk {

// Runs `function`, which returns a py::object; its exceptions become Python's, as pybind11 has it.
template <class Function> PyObject* translated(Function function) noexcept {
  try {
    return function().release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::out_of_range& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (abi::__forced_unwind&) {
    wait_for_exit();
  }
  return nullptr;
}

// kFunction as a function of a module, called with the array of its arguments (METH_FASTCALL).
template <auto kFunction> struct FastFunction;
template <class Result, class... Parameters, Result (*kFunction)(Parameters...)>
struct FastFunction<kFunction> {
  static constexpr size_t kCount = sizeof...(Parameters);
  inline static PyMethodDef method = {};
  inline static Py_ssize_t required = 0;
  inline static std::string documentation;
  inline static const char* argument_names[kCount];
  inline static const char* (*operation_of)(PyObject* const* arguments);

  template <size_t... kPlaces>
  static py::object call(PyObject* const* arguments, Py_ssize_t count,
                         std::index_sequence<kPlaces...>) {
    DLK_CHECK_TYPE(count >= required && count <= Py_ssize_t(kCount), method.ml_name, ": expected ",
                   required, " to ", kCount, " arguments, got ", count);
    const char* operation = operation_of ? operation_of(arguments) : method.ml_name;
    const std::tuple<std::decay_t<Parameters>...> read{
        // in their order
        read_argument<std::decay_t<Parameters>>(Py_ssize_t(kPlaces) < count ? arguments[kPlaces]
                                                                            : Py_None,
                                                operation, argument_names[kPlaces])...};
    return std::apply(kFunction, read);
  }

  static PyObject* from_python(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return translated(
        [&] { return call(arguments, count, std::index_sequence_for<Parameters...>()); });
  }
};

// Adds kFunction to `module`, with its arguments' names for errors and for its text signature; the
// last `optional` ones may be left out, which is None. `operation_of`: the operation's name from
// the arguments, where it is not `name`.
template <auto kFunction, size_t count>
void def_fast(py::module_& module, const char* name, const char* summary,
              const char* const (&argument_names)[count], int optional = 0,
              const char* (*operation_of)(PyObject* const*) = nullptr) {
  using Fast = FastFunction<kFunction>;
  static_assert(count == Fast::kCount, "one name for each argument");
  std::copy_n(argument_names, count, Fast::argument_names);
  Fast::operation_of = operation_of;
  Fast::required = Py_ssize_t(count) - optional;
  // The form in which Python reads a signature from a docstring: "name(first, last=None, /)". Some
  // names are phrases, for errors.
  Fast::documentation = std::string(name) + "(";
  for (size_t place = 0; place < count; ++place) {
    for (const char* letter = argument_names[place]; *letter != 0; ++letter)
      if (*letter != '\'')
        Fast::documentation += *letter == ' ' ? '_' : *letter;
    Fast::documentation += Py_ssize_t(place) < Fast::required ? ", " : "=None, ";
  }
  Fast::documentation += "/)\n--\n\n" + std::string(summary);
  Fast::method = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&Fast::from_python)),
                  METH_FASTCALL, Fast::documentation.c_str()};
  module.add_object(name, py::reinterpret_steal<py::object>(PyCFunction_NewEx(
                              &Fast::method, nullptr, py::object(module.attr("__name__")).ptr())));
}

} // namespace dlk
