// Environment variables, checked: a value that makes no sense is an error, never ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace dlk::runtime {

// The value of `name`; nothing when it is unset or empty.
std::optional<std::string> environment(const char* name);

// A whole number of at least `minimum`; throws std::runtime_error otherwise.
std::optional<int64_t> environment_integer(const char* name, int64_t minimum);

// A number of bytes, "512M": K, M and G are powers of 1024. Throws std::runtime_error otherwise.
std::optional<int64_t> environment_bytes(const char* name);

} // namespace dlk::runtime
