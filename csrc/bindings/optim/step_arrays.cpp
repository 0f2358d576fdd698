// OptimizerStep: arrays of any strides as one-dimensional ones.
#include "bindings/optim/step_operands.h"

#include <algorithm>
#include <cstring>

namespace dlk {

void set_rounding(OptimizerSetting& setting, py::handle rounding) {
  if (rounding.is_none())
    return;
  const auto [seed, step] = rounding.cast<std::pair<uint64_t, uint64_t>>();
  setting.seed = seed;
  setting.step = uint32_t(step);
  setting.rounds = true;
}

int32_t OptimizerStep::add_setting(const OptimizerSetting& setting) {
  settings_.push_back(setting);
  return int32_t(settings_.size() - 1);
}

int32_t OptimizerStep::add_setting(const py::tuple& numbers, py::handle rounding) {
  OptimizerSetting setting{};
  set_rounding(setting, rounding);
  DLK_CHECK(numbers.size() <= kOptimizerNumbers, names_->operation, ": expected at most ",
            kOptimizerNumbers, " numbers, got ", numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i)
    setting.numbers[i] = numbers[i].cast<double>();
  return add_setting(setting);
}

int32_t OptimizerStep::layout(const OptimizerLayout& layout) {
  // Most arrays are like the last one.
  for (size_t index = layouts_.size(); index-- > 0;)
    if (std::memcmp(&layouts_[index], &layout, sizeof layout) == 0)
      return int32_t(index);
  layouts_.push_back(layout);
  return int32_t(layouts_.size() - 1);
}

void OptimizerStep::add_flat(const FlatStreams& flat) {
  OptimizerArray& array = arrays_.emplace_back();
  std::copy_n(flat.streams, kOptimizerStreams, array.streams);
  std::copy_n(flat.aux, kOptimizerStreams, array.aux);
  array.size = flat.size;
  array.setting = flat.setting;
  array.param = param_count_++;
  array.number = flat.number;
  const auto fits = [&](int stream) {
    return !flat.streams[stream] ||
           (flat.dtypes[stream] == flat.dtypes[0] && flat.formats[stream] == StreamFormat::plain);
  };
  bool plain = true;
  for (int stream = 0; stream < kAverageStream; ++stream)
    plain = plain && fits(stream);
  const bool all_plain = plain && fits(kAverageStream);
  int32_t& known = plain_layouts_[int(flat.dtypes[0])];
  if (all_plain && known >= 0) {
    array.layout = known;
    return;
  }
  OptimizerLayout own;
  std::memset(&own, 0, sizeof own); // compared by its bytes
  own.plain = plain;
  own.low_stride = 1;
  for (int stream = 0; stream < kOptimizerStreams; ++stream) {
    own.strides[stream] = 1;
    own.dtypes[stream] = flat.dtypes[flat.streams[stream] ? stream : 0];
    if (flat.streams[stream])
      own.formats[stream] = flat.formats[stream];
  }
  array.layout = layout(own);
  if (all_plain)
    known = array.layout;
}

void OptimizerStep::add_arrays(const Operands& operands, int32_t setting, int32_t number) {
  const Dims dims(operands);
  if (dims.empty)
    return;
  const TensorView* views = operands.views;
  const int outer = dims.count ? dims.count - 1 : 0;
  const auto inner_stride = [&](int k) {
    return dims.count && operands.is_there[k] ? dims.dims[outer].strides[k] : 1;
  };
  OptimizerLayout own;
  std::memset(&own, 0, sizeof own);
  own.plain = true;
  own.low_stride = inner_stride(kLowOperand);
  for (int stream = 0; stream < kOptimizerStreams; ++stream) {
    own.dtypes[stream] = views[operands.is_there[stream] ? stream : 0].dtype;
    own.formats[stream] = operands.formats[stream];
    own.strides[stream] = inner_stride(stream);
    if (stream < kAverageStream)
      own.plain = own.plain && own.dtypes[stream] == views[0].dtype && own.strides[stream] == 1 &&
                  own.formats[stream] == StreamFormat::plain;
  }
  OptimizerArray array{};
  array.size = dims.count ? dims.dims[outer].size : 1;
  array.layout = layout(own);
  array.setting = setting;
  array.param = param_count_++;
  array.number = number;
  std::copy_n(operands.scales, kOptimizerStreams, array.aux);
  int64_t index[kMaxDims] = {};
  while (true) {
    const auto address = [&](int k) {
      int64_t offset = 0;
      for (int dim = 0; dim < outer; ++dim)
        offset += index[dim] * dims.dims[dim].strides[k];
      return static_cast<char*>(views[k].data) + offset * item_size(views[k].dtype);
    };
    for (int stream = 0; stream < kOptimizerStreams; ++stream)
      if (operands.is_there[stream])
        array.streams[stream] = address(stream);
    if (operands.is_there[kLowOperand])
      array.aux[kParamStream] = address(kLowOperand);
    arrays_.push_back(array);
    array.offset += array.size;
    int dim = outer - 1;
    while (dim >= 0 && ++index[dim] == dims.dims[dim].size)
      index[dim--] = 0;
    if (dim < 0)
      return;
  }
}

} // namespace dlk
