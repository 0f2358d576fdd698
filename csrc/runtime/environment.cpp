#include "runtime/environment.h"

#include "runtime/check.h"

#include <cstdlib>
#include <limits>

namespace dlk::runtime {
namespace {

// Reads the digits at the start of `digits`; `rest` is where they end. False on no digit or
// overflow.
bool read_digits(const std::string& digits, int64_t& value, size_t& rest) {
  value = 0;
  for (rest = 0; rest < digits.size() && digits[rest] >= '0' && digits[rest] <= '9'; ++rest) {
    if (__builtin_mul_overflow(value, int64_t{10}, &value) ||
        __builtin_add_overflow(value, int64_t{digits[rest] - '0'}, &value))
      return false;
  }
  return rest > 0;
}

} // namespace

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0')
    return std::nullopt;
  return std::string(value);
}

std::optional<int64_t> environment_integer(const char* name, int64_t minimum) {
  const auto written = environment(name);
  if (!written)
    return std::nullopt;
  int64_t value = 0;
  size_t rest = 0;
  const bool ok = read_digits(*written, value, rest) && rest == written->size() && value >= minimum;
  DLK_CHECK_AS(std::runtime_error, ok, name, ": expected a whole number of at least ", minimum,
               ", got \"", *written, "\"");
  return value;
}

std::optional<int64_t> environment_bytes(const char* name) {
  const auto written = environment(name);
  if (!written)
    return std::nullopt;
  int64_t value = 0;
  size_t rest = 0;
  bool ok = read_digits(*written, value, rest);
  int shift = 0;
  if (ok && rest < written->size()) {
    const char unit = (*written)[rest] & ~0x20; // upper case
    shift = unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0;
    ok = shift != 0 && rest + 1 == written->size();
  }
  ok = ok && value <= (std::numeric_limits<int64_t>::max() >> shift);
  DLK_CHECK_AS(std::runtime_error, ok, name,
               ": expected bytes, such as 268435456, 512M or 2G, got \"", *written, "\"");
  return value << shift;
}

} // namespace dlk::runtime
