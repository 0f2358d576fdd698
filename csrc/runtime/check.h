// One way to raise: operation, argument, what was expected, what came.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace dlk {

// Becomes a Python TypeError / IndexError (pybind11 maps std::out_of_range and std::invalid_argument
// to IndexError and ValueError by itself).
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// The parts are evaluated even when all is well: where one is costly (shape_text, str of an object),
// test first and throw by hand on a hot path.
//
// check(ok, "relu: out: expected shape ", shape_text(a), ", got ", shape_text(b))
template <class Error = std::invalid_argument, class... Parts>
void check(bool ok, const Parts&... parts) {
  if (__builtin_expect(!ok, 0))
    throw Error(text(parts...));
}

} // namespace dlk
