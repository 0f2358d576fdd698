#include "bindings/arguments.h"

#include <cstring>

namespace dlk {
namespace {

[[noreturn]] void refuse(py::handle object, const char* operation, const char* argument,
                         const char* expected) {
  throw TypeError(
      text(operation, ": ", argument, ": expected ", expected, ", got ", type_text(object)));
}

// After a conversion failed: a number that is too large is a ValueError, what is none a TypeError.
[[noreturn]] void refuse_number(py::handle object, const char* operation, const char* argument,
                                const char* expected, const char* range) {
  const bool is_too_large = PyErr_ExceptionMatches(PyExc_OverflowError);
  PyErr_Clear();
  DLK_CHECK(!is_too_large, operation, ": ", argument, ": expected ", range,
            ", got one that is larger");
  refuse(object, operation, argument, expected);
}

py::object index_of(py::handle object, const char* operation, const char* argument) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    PyErr_Clear();
    refuse(object, operation, argument, "an integer");
  }
  return index;
}

} // namespace

std::string type_text(py::handle object) {
  if (object.is_none())
    return "None";
  const py::handle type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
  const std::string module = py::str(type.attr("__module__"));
  const std::string name = py::str(type.attr("__qualname__"));
  return module == "builtins" ? name : module + "." + name;
}

double as_number(py::handle object, const char* operation, const char* argument) {
  if (PyFloat_CheckExact(object.ptr()))
    return PyFloat_AS_DOUBLE(object.ptr());
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred())
    refuse_number(object, operation, argument, "a number", "a number that float64 can hold");
  return value;
}

int64_t as_integer(py::handle object, const char* operation, const char* argument, int64_t least,
                   int64_t most) {
  py::object index;
  if (!PyLong_CheckExact(object.ptr()))
    object = index = index_of(object, operation, argument);
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
  DLK_CHECK(overflow == 0 && value >= least && value <= most, operation, ": ", argument,
            ": expected an integer in [", least, ", ", most, "], got ",
            std::string(py::str(object)).substr(0, 40));
  return value;
}

uint64_t as_bits(py::handle object, const char* operation, const char* argument) {
  const py::object index = index_of(object, operation, argument);
  const uint64_t value = PyLong_AsUnsignedLongLong(index.ptr());
  if (value == UINT64_MAX && PyErr_Occurred())
    refuse_number(object, operation, argument, "an integer", "an integer in [0, 2**64)");
  return value;
}

bool as_flag(py::handle object, const char* operation, const char* argument) {
  if (PyBool_Check(object.ptr()))
    return object.ptr() == Py_True;
  const bool is_numpy_bool =
      std::strncmp(Py_TYPE(object.ptr())->tp_name, "numpy.bool", std::strlen("numpy.bool")) == 0;
  if (!is_numpy_bool && !PyLong_Check(object.ptr()))
    refuse(object, operation, argument, "a bool");
  return PyObject_IsTrue(object.ptr()) == 1;
}

const char* as_text(py::handle object, const char* operation, const char* argument) {
  const char* characters = PyUnicode_Check(object.ptr()) ? PyUnicode_AsUTF8(object.ptr()) : nullptr;
  if (characters == nullptr) {
    PyErr_Clear(); // of what UTF-8 cannot write
    refuse(object, operation, argument, "a string");
  }
  return characters;
}

std::vector<double> as_numbers(py::handle object, const char* operation, const char* argument) {
  if (!PyList_Check(object.ptr()) && !PyTuple_Check(object.ptr()))
    refuse(object, operation, argument, "a list of numbers");
  std::vector<double> numbers;
  for (const py::handle number : py::reinterpret_borrow<py::sequence>(object))
    numbers.push_back(as_number(number, operation, argument));
  return numbers;
}

} // namespace dlk
