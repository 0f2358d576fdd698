#include "runtime/dispatch.h"

#include "runtime/check.h"
#include "runtime/environment.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <thread>
#include <unistd.h>

// Each level's table is defined in csrc/kernels/, compiled once per level.
namespace dlk {
#ifdef DLK_HAVE_baseline
namespace baseline {
extern const KernelTable kernel_table;
}
#endif
#ifdef DLK_HAVE_avx2
namespace avx2 {
extern const KernelTable kernel_table;
}
#endif
#ifdef DLK_HAVE_avx512
namespace avx512 {
extern const KernelTable kernel_table;
}
#endif
} // namespace dlk

namespace dlk::runtime {
namespace {

struct Level {
  const char* name;
  const KernelTable* table;
  bool (*runs_here)();
};

// __builtin_cpu_supports includes the operating system: without its support for the wide registers
// libgcc clears the feature bits that a psABI level is made of.
#ifdef __x86_64__
bool runs_baseline() {
  return __builtin_cpu_supports("x86-64-v2");
}
[[maybe_unused]] bool runs_avx2() {
  return __builtin_cpu_supports("x86-64-v3");
}
[[maybe_unused]] bool runs_avx512() {
  return __builtin_cpu_supports("x86-64-v4");
}
#else
bool runs_baseline() {
  return true;
}
#endif

// Slowest first.
constexpr Level kLevels[] = {
#ifdef DLK_HAVE_baseline
    {"baseline", &baseline::kernel_table, runs_baseline},
#endif
#ifdef DLK_HAVE_avx2
    {"avx2", &avx2::kernel_table, runs_avx2},
#endif
#ifdef DLK_HAVE_avx512
    {"avx512", &avx512::kernel_table, runs_avx512},
#endif
};

enum class Reason { best, environment, set };

std::atomic<const KernelTable*> active_table{kLevels[0].table};
std::atomic<Reason> active_reason{Reason::best};

std::string join(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names)
    all += (all.empty() ? "" : ", ") + name;
  return all;
}

// The level called `name`; throws Error, listing the valid names. `source` is what asked for it.
template <class Error> const Level& find_level(const std::string& name, const char* source) {
  for (const Level& level : kLevels) {
    if (name != level.name)
      continue;
    DLK_CHECK_AS(Error, level.runs_here(), source, ": the level \"", name,
                 "\" is not supported by this processor or operating system; valid here: ",
                 join(supported_isas()));
    return level;
  }
  throw Error(text(source, ": unknown level \"", name,
                   "\": expected one that is valid here: ", join(supported_isas())));
}

void activate(const Level& level, Reason reason) {
  active_table.store(level.table, std::memory_order_release);
  active_reason.store(reason, std::memory_order_relaxed);
}

// What the kernel reports of cpu0's caches: the size of the highest level that holds data, or 0.
// First choice because sysconf reads the size of the whole package in some virtual machines.
int64_t sysfs_cache_bytes() {
  int64_t best_bytes = 0;
  int best_level = 0;
  for (int index = 0; index < 10; ++index) {
    const std::string folder = text("/sys/devices/system/cpu/cpu0/cache/index", index, "/");
    int level = 0;
    std::string type;
    int64_t size = 0;
    std::string unit;
    if (!(std::ifstream(folder + "level") >> level) || !(std::ifstream(folder + "type") >> type))
      continue;
    std::ifstream size_file(folder + "size"); // "32768K"
    if (!(size_file >> size) || type == "Instruction" || level < best_level)
      continue;
    size_file >> unit;
    const int shift = unit == "K" ? 10 : unit == "M" ? 20 : unit == "G" ? 30 : 0;
    best_level = level;
    best_bytes = size << shift;
  }
  return best_bytes;
}

int64_t detect_cache_bytes() {
  if (const auto bytes = environment_bytes("DLKERNELS_CACHE_BYTES"))
    return *bytes;
  constexpr int64_t kMiB = int64_t{1} << 20;
  int64_t bytes = sysfs_cache_bytes();
#ifdef _SC_LEVEL3_CACHE_SIZE
  if (bytes <= 0)
    bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  if (bytes <= 0)
    bytes = 32 * kMiB;
  // A cache of hundreds of MiB serves a hundred cores; a process on two of them, in a virtual
  // machine say, keeps little of it (streaming a result of 128 MiB past 480: 5.2 ms, through
  // it 8.9).
  const int64_t processors = std::max(1U, std::thread::hardware_concurrency());
  bytes = std::min(bytes, 16 * kMiB * processors);
  return std::clamp(bytes, kMiB / 4, 1024 * kMiB);
}

} // namespace

const KernelTable& kernels() {
  return *active_table.load(std::memory_order_acquire);
}

void choose_isa_at_import() {
  const std::vector<std::string> supported = supported_isas();
  DLK_CHECK_AS(std::runtime_error, !supported.empty(),
               "dlkernels needs a processor of level x86-64-v2 or later");
  if (const auto name = environment("DLKERNELS_ISA"))
    activate(find_level<std::runtime_error>(*name, "DLKERNELS_ISA"), Reason::environment);
  else
    activate(find_level<std::runtime_error>(supported.back(), "dlkernels"), Reason::best);
}

void set_isa(const std::string& level) {
  activate(find_level<std::invalid_argument>(level, "set_isa"), Reason::set);
}

std::string active_isa() {
  const KernelTable* table = active_table.load(std::memory_order_acquire);
  for (const Level& level : kLevels)
    if (level.table == table)
      return level.name;
  return "";
}

std::string isa_reason() {
  switch (active_reason.load(std::memory_order_relaxed)) {
  case Reason::environment:
    return "DLKERNELS_ISA";
  case Reason::set:
    return "set_isa";
  default:
    return "best supported";
  }
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Level& level : kLevels)
    names.push_back(level.name);
  return names;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Level& level : kLevels)
    if (level.runs_here())
      names.push_back(level.name);
  return names;
}

int64_t last_level_cache_bytes() {
  static const int64_t bytes = detect_cache_bytes();
  return bytes;
}

} // namespace dlk::runtime
