// ParameterTable: what numbers are computed from, and the numbers, to and from Python.
#include "bindings/optim/parameter_table.h"

#include "runtime/check.h"

#include <algorithm>
#include <cstring>

namespace dlk {
namespace {

double read_scalar(const void* data, bool is_single) {
  return is_single ? double(*static_cast<const float*>(data)) : *static_cast<const double*>(data);
}

} // namespace

ParameterTable::Setting ParameterTable::read_setting(const py::tuple& given) const {
  Setting setting{};
  setting.group = given[0].cast<int32_t>();
  setting.fresh = given[2].cast<bool>();
  setting.single = given[3].cast<int>();
  const py::tuple scalars = given[1], next = given[4], numbers = given[5];
  for (size_t k = 0; k < scalar_count_; ++k) {
    setting.scalars[k] = scalars[k].cast<double>();
    setting.next[k] = next[k].cast<double>();
  }
  DLK_CHECK(numbers.size() <= kOptimizerNumbers, names_.operation, ": expected at most ",
            kOptimizerNumbers, " numbers, got ", numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i)
    setting.numbers.numbers[i] = numbers[i].cast<double>();
  set_rounding(setting.numbers, given[6]);
  return setting;
}

// A setting without its numbers.
py::tuple ParameterTable::asked(const Setting& setting) const {
  py::tuple scalars(scalar_count_);
  for (size_t k = 0; k < scalar_count_; ++k)
    scalars[k] = setting.scalars[k];
  return py::make_tuple(setting.group, scalars, setting.fresh, setting.single);
}

py::list ParameterTable::expected(const py::list& groups, const py::list& used,
                                  const py::dict& state) {
  py::list result;
  const Lock lock(*this);
  if (!lock.is_held || !fits(groups, used, state))
    return result;
  for (Setting setting : settings_) {
    if (!setting.used)
      continue;
    setting.fresh = false;
    for (int k = 0; k < kMaxScalars; ++k)
      setting.scalars[k] =
          setting.single >> k & 1 ? double(float(setting.next[k])) : setting.next[k];
    result.append(asked(setting));
  }
  return result;
}

ParameterTable::Setting ParameterTable::setting_for(const Live& live) const {
  Setting setting{};
  setting.group = live.row->group;
  setting.fresh = live.row->fresh;
  setting.single = live.single;
  for (size_t k = 0; k < scalar_count_; ++k)
    setting.scalars[k] = read_scalar(live.scalars[k], live.single >> k & 1);
  return setting;
}

bool ParameterTable::is_of(const Setting& setting, const Live& live) const {
  const Setting own = setting_for(live);
  return setting.group == own.group && setting.fresh == own.fresh && setting.single == own.single &&
         std::memcmp(setting.scalars, own.scalars, sizeof own.scalars) == 0;
}

// The index of a live row's setting, -1 for one that is missing.
int32_t ParameterTable::setting_of(const Live& live, std::vector<Setting>& missing) const {
  const auto is_its = [&](const Setting& setting) { return is_of(setting, live); };
  const auto found = std::find_if(settings_.begin(), settings_.end(), is_its);
  if (found != settings_.end())
    return int32_t(found - settings_.begin());
  if (std::none_of(missing.begin(), missing.end(), is_its))
    missing.push_back(setting_for(live));
  return -1;
}

} // namespace dlk
