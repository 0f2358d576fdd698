// Arguments that are no arrays. Each error names the operation, the argument, what was expected and
// what was given.
#pragma once

#include "runtime/check.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <pybind11/pybind11.h>
#include <string>
#include <type_traits>
#include <vector>

namespace dlk {

namespace py = pybind11;

// The type of an object, for errors: "numpy.ndarray".
std::string type_text(py::handle object);

// What float() takes, but for text. TypeError; ValueError for a number beyond float64.
double as_number(py::handle object, const char* operation, const char* argument);

// What has __index__. TypeError; ValueError where it lies outside of the limits.
int64_t as_integer(py::handle object, const char* operation, const char* argument,
                   int64_t least = INT64_MIN, int64_t most = INT64_MAX);
uint64_t as_bits(py::handle object, const char* operation, const char* argument);

// A bool of Python or NumPy, or an integer.
bool as_flag(py::handle object, const char* operation, const char* argument);

// Valid while the object lives.
const char* as_text(py::handle object, const char* operation, const char* argument);

std::vector<double> as_numbers(py::handle object, const char* operation, const char* argument);

// One argument as a C++ function takes it.
template <class T> T read_argument(py::handle object, const char* operation, const char* argument) {
  if constexpr (std::is_same_v<T, py::handle>) {
    return object;
  } else if constexpr (std::is_same_v<T, bool>) {
    return as_flag(object, operation, argument);
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    return as_bits(object, operation, argument);
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(as_integer(object, operation, argument,
                                     int64_t{std::numeric_limits<T>::min()},
                                     int64_t{std::numeric_limits<T>::max()}));
  } else if constexpr (std::is_same_v<T, double>) {
    return as_number(object, operation, argument);
  } else if constexpr (std::is_same_v<T, const char*>) {
    return as_text(object, operation, argument);
  } else if constexpr (std::is_same_v<T, std::vector<double>>) {
    return as_numbers(object, operation, argument);
  } else if constexpr (std::is_same_v<T, std::optional<double>> ||
                       std::is_same_v<T, std::optional<int64_t>>) {
    if (object.is_none())
      return std::nullopt;
    return read_argument<typename T::value_type>(object, operation, argument);
  } else {
    static_assert(std::is_same_v<T, py::tuple>, "an argument of another type");
    DLK_CHECK_TYPE(PyTuple_Check(object.ptr()), operation, ": ", argument,
                   ": expected a tuple, got ", type_text(object));
    return py::reinterpret_borrow<py::tuple>(object);
  }
}

} // namespace dlk
