// Work without the GIL, and what becomes of it when the interpreter ends meanwhile.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

namespace dlk {

// For a thread that the interpreter ends while it shuts down. Before Python 3.14 it does so with
// pthread_exit, which unwinds the stack: that may neither pass what is noexcept nor destroy Python
// objects, for which there is no GIL. So the thread stays here until the process is gone.
[[noreturn]] inline void wait_for_exit() noexcept {
  for (;;)
    pause();
}

// Runs `function` with the GIL given up.
template <class Function> void with_gil_released(Function function) {
  PyThreadState* thread = PyEval_SaveThread();
  const auto take_back = [&] {
    try {
      PyEval_RestoreThread(thread);
    } catch (abi::__forced_unwind&) {
      wait_for_exit();
    }
  };
  try {
    function();
  } catch (...) {
    take_back();
    throw;
  }
  take_back();
}

} // namespace dlk
