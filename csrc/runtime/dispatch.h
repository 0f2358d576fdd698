// Which ISA level runs: detection, the table of kernels, and the switch between levels.
#pragma once

#include "kernels/kernel_table.h"

#include <string>
#include <vector>

namespace dlk {

namespace runtime {

// The active level's kernels: one atomic load.
const KernelTable& kernels();

// Chooses the level at import: DLKERNELS_ISA where set, else the best the processor and the
// operating system support. Throws std::runtime_error, listing the valid names, when DLKERNELS_ISA
// is unknown, not compiled in or not supported.
void choose_isa_at_import();

void set_isa(const std::string& level); // same rules; throws std::invalid_argument
std::string active_isa();
std::string isa_reason(); // "best supported", "DLKERNELS_ISA", or "set_isa"
std::vector<std::string> compiled_isas();
std::vector<std::string> supported_isas(); // compiled and runnable here, slowest first

// Bytes of the last-level cache that one process can count on; read once. Outputs larger than
// this that are only written go past the cache.
int64_t last_level_cache_bytes();

} // namespace runtime
} // namespace dlk
