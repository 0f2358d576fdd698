// ParameterTable: where the numbers of live parameters are, found without Python where possible.
#include "bindings/optim/parameter_table.h"

#include "runtime/threads.h"

namespace dlk {

// Whether there is an average to go on without a gradient.
bool ParameterTable::has_average(const Row& row) const {
  return names_.has_average && entries_[row.first + slot_count_];
}

// The addresses of row-major tensors that are as the row says; false if one is not.
bool ParameterTable::find_streams(const Row& row, TorchTensor grad, FlatStreams& flat) const {
  if (!row.row_major)
    return false;
  const int64_t* shape = shapes_.data() + row.first_dim;
  const TorchHandle* handle = &handles_[row.first];
  void** const streams = flat.streams;
  streams[0] = handle[0].data(row.dtypes[0], row.ndim, shape);
  bool all = streams[0];
  if (grad) {
    streams[1] = grad.data(row.dtypes[1], row.ndim, shape);
    all = all && streams[1];
  }
  for (size_t k = 0; k < slot_count_; ++k) {
    const int stream = names_.stream(k);
    if (handle[1 + k] && (grad || stream == kAverageStream)) {
      streams[stream] = handle[1 + k].data(row.dtypes[stream], row.ndim, shape);
      all = all && streams[stream];
    }
  }
  if (format_count_) {
    const int64_t blocks = (row.size + kOptimizerBlock - 1) / kOptimizerBlock;
    const TorchHandle* const format = handle + 1 + slot_count_;
    for (size_t k = 0; k < slot_count_; ++k)
      if (const int stream = names_.stream(k); grad && row.dtypes[stream] == DType::uint8) {
        flat.aux[stream] = format[k] ? format[k].data(DType::float32, 1, &blocks) : nullptr;
        all = all && flat.aux[stream];
      }
    if (row.formats[kParamStream] == StreamFormat::split) {
      flat.aux[0] = format[slot_count_].data(DType::int16, row.ndim, shape);
      all = all && flat.aux[0];
    }
  }
  flat.dtypes = row.dtypes;
  flat.formats = row.formats;
  flat.size = row.size;
  flat.number = int32_t(number_of(row));
  return all;
}

// The addresses of the scalars; false where one has none of its own.
bool ParameterTable::find_scalars(Live& live) const {
  const TorchHandle* handle = &handles_[live.row->first + 1 + slot_count_ + format_count_];
  live.single = 0;
  for (size_t k = 0; k < scalar_count_; ++k) {
    live.scalars[k] = handle[k].data(DType::float32, 0, nullptr);
    live.single |= (live.scalars[k] != nullptr) << k;
    if (!live.scalars[k])
      live.scalars[k] = handle[k].data(DType::float64, 0, nullptr);
    if (!live.scalars[k])
      return false;
  }
  return true;
}

// The same; a TypeError for what is no scalar, which torch then takes.
void ParameterTable::find_scalars_through_python(Live& live) const {
  live.single = 0;
  for (size_t k = 0; k < scalar_count_; ++k) {
    const std::string name = py::str(scalar_names_[k]);
    const TensorView view =
        output_view_of(entries_[live.row->first + 1 + slot_count_ + format_count_ + k],
                       names_.operation.c_str(), name.c_str());
    const bool is_single = view.dtype == DType::float32;
    DLK_CHECK_TYPE(view.ndim == 0 && (is_single || view.dtype == DType::float64), names_.operation,
                   ": ", name, ": expected a float32 or float64 scalar, got ",
                   dtype_name(view.dtype), " of shape ", shape_text(view));
    live.single |= is_single << k;
    live.scalars[k] = view.data;
  }
}

// A tensor is a chain of small objects all over memory, each waited for in turn: a tenth of a step
// over thousands.
void ParameterTable::fetch_ahead(size_t index) const {
  const size_t count = rows_.size(), first = index * per_row_;
  if (index + 8 < count)
    for (size_t k = 0; k < per_row_; ++k)
      handles_[first + 8 * per_row_ + k].fetch();
  if (index + 4 < count)
    for (size_t k = 0; k < per_row_; ++k)
      handles_[first + 4 * per_row_ + k].fetch_linked();
  if (index + 2 < count)
    handles_[first + 2 * per_row_].grad().fetch();
  if (index + 1 < count)
    handles_[first + per_row_].grad().fetch_linked();
}

// What a step needs of a row, as far as it is found without Python.
void ParameterTable::find(Live& live, bool counts_versions) {
  const Row& row = *live.row;
  const TorchTensor grad = handles_[row.first].grad();
  live.has_grad = bool(grad);
  live.is_live = live.has_grad || has_average(row);
  live.is_flat = live.has_scalars = false;
  live.setting = -1;
  if (!live.is_live || !row.plain || !row.has_states)
    return;
  live.has_scalars = find_scalars(live);
  if (live.has_grad && live.has_scalars && size_t(row.setting) < settings_.size() &&
      is_of(settings_[size_t(row.setting)], live))
    live.setting = row.setting;
  live.flat = FlatStreams{};
  live.is_flat = find_streams(row, grad, live.flat);
  if (live.is_flat && live.has_grad && !keeps_gil())
    live.grad = TorchHandle(grad);
  if (counts_versions)
    count_versions(live);
}

// Finds what the step needs of every row, all threads together. Returns false where the table does
// not fit.
bool ParameterTable::collect(OptimizerStep& step, std::vector<Setting>& missing,
                             const StepExtras& extras) {
  check_states();
  step.reserve(rows_.size());
  if (uses_handles_) {
    struct Context {
      ParameterTable& table;
      bool counts_versions;
    } context{*this, !extras.may_skip()};
    const auto find_rows = [](void* data, int64_t begin, int64_t end, int) noexcept {
      const Context& context = *static_cast<Context*>(data);
      for (int64_t index = begin; index < end; ++index) {
        context.table.fetch_ahead(size_t(index));
        context.table.find(context.table.live_[size_t(index)], context.counts_versions);
      }
    };
    const int64_t count = int64_t(rows_.size());
    runtime::parallel_for(count, count * kElemsPerRow, find_rows, &context);
  }
  for (Live& live : live_) {
    Row& row = *live.row;
    if (!uses_handles_) {
      live.has_grad = !entries_[row.first].attr("grad").is_none();
      live.is_live = live.has_grad || has_average(row);
      live.setting = -1;
    }
    if (!live.is_live)
      continue;
    if (!row.plain || !row.has_states)
      return false;
    if (live.has_grad) {
      if (!live.has_scalars)
        find_scalars_through_python(live);
      if (live.setting < 0)
        live.setting = setting_of(live, missing);
      if (live.setting >= 0) {
        row.setting = live.setting;
        settings_[size_t(live.setting)].used = true;
      }
    }
    if (live.is_flat) {
      live.flat.setting = live.setting;
      step.add_flat(live.flat);
    }
    if (!uses_handles_ && !extras.may_skip())
      count_versions(live);
  }
  return true;
}

} // namespace dlk
