// One way to raise: operation, argument, what was expected, what came.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace dlk {

// Becomes a Python TypeError / IndexError (pybind11 maps std::out_of_range and
// std::invalid_argument to IndexError and ValueError by itself).
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

} // namespace dlk

// DLK_CHECK(ok, "relu: out: expected shape ", shape_text(a), ", got ", shape_text(b)) raises
// ValueError unless ok. Macros, so that a message is put together only when it is needed.
#define DLK_CHECK_AS(Error, ok, ...)                                                               \
  do {                                                                                             \
    if (__builtin_expect(!(ok), 0))                                                                \
      throw Error(::dlk::text(__VA_ARGS__));                                                       \
  } while (false)
#define DLK_CHECK(ok, ...) DLK_CHECK_AS(std::invalid_argument, ok, __VA_ARGS__)
#define DLK_CHECK_TYPE(ok, ...) DLK_CHECK_AS(::dlk::TypeError, ok, __VA_ARGS__)
#define DLK_CHECK_INDEX(ok, ...) DLK_CHECK_AS(std::out_of_range, ok, __VA_ARGS__)
