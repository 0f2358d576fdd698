// Functions that Python calls without pybind11's dispatcher in between: for the ones whose whole
// work may take less than it (150 ns).
#pragma once

#include "runtime/check.h"

#include <new>
#include <pybind11/pybind11.h>

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

// A function of `module` that takes its arguments as they lie on Python's stack.
inline void def_fast(pybind11::module_& module, PyMethodDef& method) {
  module.add_object(method.ml_name, pybind11::reinterpret_steal<pybind11::object>(
                                        PyCFunction_New(&method, nullptr)));
}

inline double as_double(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred())
    throw pybind11::error_already_set();
  return value;
}
inline long as_long(PyObject* object) {
  const long value = PyLong_AsLong(object);
  if (value == -1 && PyErr_Occurred())
    throw pybind11::error_already_set();
  return value;
}

} // namespace dlk
