// Functions that Python calls without pybind11's dispatcher in between: for the ones whose whole
// work may take less than it (150 ns).
#pragma once

#include "runtime/check.h"

#include <cstdint>
#include <new>
#include <optional>
#include <pybind11/pybind11.h>
#include <type_traits>
#include <utility>

namespace dlk {

// Runs `function`, which returns a py::object; its exceptions become Python's, as pybind11 has it.
template <class Function> PyObject* translated(Function function) noexcept {
  namespace py = pybind11;
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
  }
  return nullptr;
}

// The argument at `place`, as a parameter of type T; what it is not is a TypeError.
template <class T> T read_argument(const char* name, int place, PyObject* object) {
  namespace py = pybind11;
  [[maybe_unused]] const auto checked = [&](T value, bool failed, const char* expected) {
    if (failed && PyErr_Occurred()) {
      PyErr_Clear();
      throw TypeError(text(name, ": argument ", place, ": expected ", expected, ", got ",
                           Py_TYPE(object)->tp_name));
    }
    return value;
  };
  if constexpr (std::is_same_v<T, py::handle>) {
    return object;
  } else if constexpr (std::is_same_v<T, bool>) {
    const int truth = PyObject_IsTrue(object);
    return checked(truth > 0, truth < 0, "a bool");
  } else if constexpr (std::is_same_v<T, double>) {
    const double value = PyFloat_AsDouble(object);
    return checked(value, value == -1, "a number");
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    const uint64_t value = PyLong_AsUnsignedLongLong(object);
    return checked(value, value == uint64_t(-1), "a whole number of 64 bits, not negative");
  } else if constexpr (std::is_same_v<T, int64_t>) {
    const int64_t value = PyLong_AsLongLong(object);
    return checked(value, value == -1, "a whole number of 64 bits");
  } else if constexpr (std::is_same_v<T, int>) {
    const long value = PyLong_AsLong(object);
    const bool too_large = value != int(value);
    if (too_large)
      PyErr_SetNone(PyExc_OverflowError);
    return checked(int(value), value == -1 || too_large, "a whole number of 32 bits");
  } else if constexpr (std::is_same_v<T, const char*>) {
    const char* characters = PyUnicode_Check(object) ? PyUnicode_AsUTF8(object) : nullptr;
    if (!characters && !PyErr_Occurred())
      PyErr_SetNone(PyExc_TypeError);
    return checked(characters, !characters, "a string");
  } else if constexpr (std::is_same_v<T, std::optional<int64_t>>) {
    return object == Py_None ? T() : T(read_argument<int64_t>(name, place, object));
  } else {
    try {
      return py::handle(object).cast<T>();
    } catch (const py::cast_error&) {
      throw TypeError(text(name, ": argument ", place, ": got ", Py_TYPE(object)->tp_name));
    }
  }
}

// kFunction as a function of a module. It is given its arguments as they lie on Python's stack.
template <auto kFunction> struct FastFunction {
  inline static PyMethodDef method = {};
  inline static Py_ssize_t required = 0;

  template <class Result, class... Parameters, size_t... kPlaces>
  static pybind11::object call(Result (*)(Parameters...), PyObject* const* arguments,
                               Py_ssize_t count, std::index_sequence<kPlaces...>) {
    constexpr auto all = Py_ssize_t(sizeof...(Parameters));
    DLK_CHECK_TYPE(count >= required && count <= all, method.ml_name, ": expected ", required,
                   " to ", all, " arguments, got ", count);
    return kFunction(read_argument<std::decay_t<Parameters>>(
        method.ml_name, int(kPlaces) + 1,
        Py_ssize_t(kPlaces) < count ? arguments[kPlaces] : Py_None)...);
  }
  template <class Result, class... Parameters>
  static pybind11::object call(Result (*function)(Parameters...), PyObject* const* arguments,
                               Py_ssize_t count) {
    return call(function, arguments, count, std::index_sequence_for<Parameters...>());
  }
  template <class Result, class... Parameters>
  static constexpr Py_ssize_t count_of(Result (*)(Parameters...)) {
    return sizeof...(Parameters);
  }

  static PyObject* from_python(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return translated([&] { return call(kFunction, arguments, count); });
  }
};

// Adds kFunction to `module`; the last `optional` arguments may be left out, which is None.
template <auto kFunction>
void def_fast(pybind11::module_& module, const char* name, int optional = 0) {
  using Fast = FastFunction<kFunction>;
  Fast::required = Fast::count_of(kFunction) - optional;
  Fast::method = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&Fast::from_python)),
                  METH_FASTCALL, nullptr};
  module.add_object(
      name, pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&Fast::method, nullptr)));
}

} // namespace dlk
