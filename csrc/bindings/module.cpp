// The extension module: the runtime's own functions, and what each file of bindings adds.
#include "bindings/arrays/tensor.h"
#include "bindings/bind.h"
#include "bindings/gil.h"
#include "runtime/dispatch.h"
#include "runtime/malloc_tuning.h"
#include "runtime/pool.h"
#include "runtime/threads.h"

#include <pybind11/stl.h>

#ifndef DLK_VERSION
#define DLK_VERSION "unknown"
#endif

namespace dlk {
namespace {

using namespace py::literals;

py::dict memory_stats() {
  const runtime::PoolStatistics pool = runtime::pool_statistics();
  return py::dict("in_use_bytes"_a = pool.in_use_bytes, "idle_bytes"_a = pool.idle_bytes,
                  "peak_in_use_bytes"_a = pool.peak_in_use_bytes,
                  "limit_bytes"_a = pool.limit_bytes, "hits"_a = pool.hits,
                  "misses"_a = pool.misses, "released"_a = pool.released);
}

py::dict build_info() {
#ifdef __clang__
  const char* compiler = "Clang " __clang_version__;
#else
  const char* compiler = "GCC " __VERSION__;
#endif
  return py::dict("version"_a = DLK_VERSION, "compiler"_a = compiler,
                  "cxx_standard"_a = __cplusplus, "openmp"_a = _OPENMP,
#ifdef NDEBUG
                  "assertions"_a = false,
#else
                  "assertions"_a = true,
#endif
                  "pybind11"_a = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(
                      PYBIND11_VERSION_MINOR));
}

// The settings of the environment; a wrong value makes the import fail.
void configure_at_import() {
  try {
    runtime::choose_isa_at_import();
    runtime::configure_threads_at_import();
    runtime::configure_pool_at_import();
    runtime::last_level_cache_bytes();
  } catch (const std::runtime_error& error) {
    throw py::import_error(error.what());
  }
}

void bind_runtime(py::module_& module) {
  module.def("active_isa", &runtime::active_isa, "The instruction set in use.");
  module.def("isa_reason", &runtime::isa_reason, "Why this instruction set is in use.");
  module.def("compiled_isas", &runtime::compiled_isas,
             "The instruction sets that the extension holds kernels for.");
  module.def("supported_isas", &runtime::supported_isas, "Those of them that this processor has.");
  module.def("set_isa", &runtime::set_isa, "Chooses the instruction set for the whole process.",
             "level"_a);
  module.def("set_num_threads", &runtime::set_num_threads,
             "Limits the threads of an operation called in this thread; also in threads to come.",
             "count"_a, "new_threads_too"_a = true);
  module.def("num_threads_limit", &runtime::num_threads_limit,
             "The limit set for the calling thread; 0: none.");
  module.def("thread_count", &runtime::thread_count,
             "How many threads an operation called here may use.");
  module.def("in_forked_child", &runtime::in_forked_child,
             "Whether the process was forked from one that had used threads.");
  module.def(
      "empty_cache", [] { with_gil_released(&runtime::empty_pool); },
      "Gives the memory that is kept for reuse back to the system.");
  module.def("memory_stats", &memory_stats, "What the pool of result memory holds and did.");
  module.def("set_pool_limit", &runtime::set_pool_limit,
             "The most bytes of dropped results to keep for reuse.", "bytes"_a);
  module.def("tune_malloc", &runtime::tune_malloc,
             "Has the C library keep memory instead of handing it back at every free.", "enable"_a);
  module.def("last_level_cache_bytes", &runtime::last_level_cache_bytes,
             "Bytes of the last-level cache that one process can count on.");
  module.def("build_info", &build_info, "Version, compiler and settings of the build.");
}

} // namespace
} // namespace dlk

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  dlk::configure_at_import();
  pybind11::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      std::rethrow_exception(pointer);
    } catch (const dlk::TypeError& error) {
      pybind11::set_error(PyExc_TypeError, error.what());
    }
  });
  dlk::bind_runtime(module);
  dlk::Bindings::add_all(module);
}
