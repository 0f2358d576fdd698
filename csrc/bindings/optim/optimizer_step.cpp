#include "bindings/optim/optimizer_step.h"

#include "bindings/call.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace dlk {
namespace {

// Elements of a piece: 64 KB of float32.
constexpr int64_t kPieceElems = 16384;
static_assert(kPieceElems % kOptimizerBlock == 0);

OptimizerKernel as_optimizer(OptimizerKernel kernel) {
  return kernel;
}
template <class Kernel> OptimizerKernel as_optimizer(Kernel) {
  return nullptr;
}

// torch.nn.utils.clip_grads_with_norm_: max_norm / (norm + 1e-6), where torch divides by a tensor
// as the product with its reciprocal, in the norm's dtype.
template <class C> double clip_coefficient(double norm, double max_norm) {
  const C reciprocal = C(1) / (C(norm) + C(1e-6));
  const C coefficient = reciprocal * C(max_norm);
  return coefficient > 1 ? 1 : double(coefficient);
}

} // namespace

OptimizerKernel optimizer_kernel(const std::string& name) {
  static const std::pair<const char*, OptimizerKernel> kernels[] = {
#define DLK_KERNEL(name, Args) {#name, as_optimizer(&KernelTable::name)},
#include "kernels/kernels.def"
#undef DLK_KERNEL
  };
  for (const auto& [known, kernel] : kernels)
    if (kernel && name == known)
      return kernel;
  throw std::invalid_argument(text("optimizer: unknown rule ", name));
}

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
  const auto is_alike = [&](int stream) {
    return !flat.streams[stream] ||
           (flat.dtypes[stream] == flat.dtypes[0] && flat.formats[stream] == StreamFormat::plain);
  };
  bool plain = true;
  for (int stream = 0; stream < kAverageStream; ++stream)
    plain = plain && is_alike(stream);
  const bool all_alike = plain && is_alike(kAverageStream);
  int32_t& known = plain_layouts_[int(flat.dtypes[0])];
  if (all_alike && known >= 0) {
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
  if (all_alike)
    known = array.layout;
}

constexpr int kLowOperand = kOptimizerStreams, kOperands = kOptimizerStreams + 1;

// The arrays of one parameter.
struct OptimizerStep::Operands {
  TensorView views[kOperands];
  bool is_there[kOperands] = {};
  StreamFormat formats[kOperands] = {};
  void* scales[kOptimizerStreams] = {};
};

// Their dimensions, outermost in the parameter first, as few as all strides allow.
struct OptimizerStep::Walks {
  struct Dim {
    int64_t size, strides[kOperands];
  };
  Dim dims[kMaxDims];
  int count = 0;
  bool empty = false;

  explicit Walks(const Operands& operands) {
    const TensorView& param = operands.views[0];
    for (int dim = 0; dim < param.ndim; ++dim) {
      empty = empty || param.shape[dim] == 0;
      if (param.shape[dim] == 1)
        continue;
      dims[count].size = param.shape[dim];
      for (int k = 0; k < kOperands; ++k)
        dims[count].strides[k] = operands.views[operands.is_there[k] ? k : 0].strides[dim];
      ++count;
    }
    std::stable_sort(dims, dims + count, [](const Dim& a, const Dim& b) {
      return std::abs(a.strides[0]) > std::abs(b.strides[0]);
    });
    int kept = 0;
    for (int dim = 0; dim < count; ++dim) {
      if (kept) {
        Dim& outer = dims[kept - 1];
        const Dim& inner = dims[dim];
        bool joins = true;
        for (int k = 0; k < kOperands; ++k)
          joins = joins && outer.strides[k] == inner.strides[k] * inner.size;
        if (joins) {
          const int64_t size = outer.size * inner.size;
          outer = inner;
          outer.size = size;
          continue;
        }
      }
      dims[kept++] = dims[dim];
    }
    count = kept;
  }
};

void OptimizerStep::add_walks(const Operands& operands, int32_t setting, int32_t number) {
  const Walks walks(operands);
  if (walks.empty)
    return;
  const TensorView* views = operands.views;
  const int outer = walks.count ? walks.count - 1 : 0;
  const auto inner_stride = [&](int k) {
    return walks.count && operands.is_there[k] ? walks.dims[outer].strides[k] : 1;
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
  array.size = walks.count ? walks.dims[outer].size : 1;
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
        offset += index[dim] * walks.dims[dim].strides[k];
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
    while (dim >= 0 && ++index[dim] == walks.dims[dim].size)
      index[dim--] = 0;
    if (dim < 0)
      return;
  }
}

// A block of codes must not be shared by two walks: arrays that lie otherwise than the codes are
// copied to where they lie alike.
void OptimizerStep::make_one_walk(Operands& operands, const TensorView& codes,
                                  bool writes_gradient) {
  for (int k = 0; k < kOperands; ++k) {
    TensorView& view = operands.views[k];
    if (!operands.is_there[k] || std::equal(view.strides, view.strides + view.ndim, codes.strides))
      continue;
    TensorView like = codes, copy;
    owners_.push_back(make_array_like(like, view.dtype, copy));
    copy_elements(view, copy);
    if (k != kGradStream || writes_gradient)
      copies_.emplace_back(copy, view);
    view = copy;
  }
}

void OptimizerStep::add(py::handle param_object, py::handle grad_object, PyObject* const* states,
                        int32_t setting, bool writes_gradient, size_t index, size_t number) {
  const char* operation = names_->operation.c_str();
  Operands operands;
  TensorView* const own = operands.views;
  own[kParamStream] = output_view_of(param_object, operation, "params");
  operands.is_there[kParamStream] = true;
  const TensorView& param = own[0];
  const auto check_shape = [&](const TensorView& view, const char* name) {
    DLK_CHECK(same_shape(view, param), operation, ": ", name, "[", index, "]: expected shape ",
              shape_text(param), ", got ", shape_text(view));
  };
  check_floating(param, operation, "params");
  if (!grad_object.is_none()) {
    TensorView& grad = own[kGradStream];
    grad = writes_gradient ? output_view_of(grad_object, operation, "grads")
                           : view_of(grad_object, operation, "grads");
    check_floating(grad, operation, "grads");
    check_shape(grad, "grads");
    operands.is_there[kGradStream] = true;
  }
  const auto is_given = [&](int state) { return states[state] && states[state] != Py_None; };
  const TensorView* codes = nullptr;
  for (size_t slot = 0; slot < names_->slots.size(); ++slot) {
    if (!is_given(int(slot)))
      continue;
    const char* name = names_->slots[slot].c_str();
    const int stream = names_->stream(slot);
    TensorView& view = own[stream];
    view = output_view_of(states[slot], operation, name);
    operands.is_there[stream] = true;
    if (view.dtype != DType::uint8 || slot >= names_->signed_slots.size()) {
      check_floating(view, operation, name);
      check_shape(view, name);
      if (stream != kAverageStream && view.dtype == DType::bfloat16 &&
          settings_[size_t(setting)].rounds)
        operands.formats[stream] = StreamFormat::random;
      continue;
    }
    check_shape(view, name);
    DLK_CHECK(view.dense(), operation, ": ", name, "[", index, "]: expected codes without gaps");
    if (!codes)
      codes = &view;
    DLK_CHECK(std::equal(view.strides, view.strides + view.ndim, codes->strides), operation, ": ",
              name, "[", index, "]: expected codes in the order of the others'");
    operands.formats[stream] =
        names_->signed_slots[slot] ? StreamFormat::signed_codes : StreamFormat::unsigned_codes;
    const std::string scales_name = std::string(name) + "_absmax";
    DLK_CHECK(is_given(kOptimizerScales + int(slot)), operation, ": ", scales_name, "[", index,
              "]: expected the scales of ", name);
    const TensorView scales =
        output_view_of(states[kOptimizerScales + slot], operation, scales_name.c_str());
    const int64_t blocks = (param.size() + kOptimizerBlock - 1) / kOptimizerBlock;
    DLK_CHECK_TYPE(scales.dtype == DType::float32, operation, ": ", scales_name, "[", index,
                   "]: expected float32, got ", dtype_name(scales.dtype));
    DLK_CHECK(scales.ndim == 1 && scales.contiguous() && scales.shape[0] == blocks, operation, ": ",
              scales_name, "[", index, "]: expected ", blocks, " numbers side by side, got shape ",
              shape_text(scales));
    operands.scales[stream] = scales.data;
    if (scales.kind == ArrayKind::dlpack)
      owners_.push_back(scales.owner);
  }
  if (is_given(kOptimizerLow)) {
    TensorView& low = own[kLowOperand];
    low = output_view_of(states[kOptimizerLow], operation, "master_low");
    DLK_CHECK_TYPE(low.dtype == DType::int16 && param.dtype == DType::bfloat16, operation,
                   ": master_low[", index, "]: expected int16 for a bfloat16 parameter, got ",
                   dtype_name(low.dtype), " for ", dtype_name(param.dtype));
    check_shape(low, "master_low");
    operands.is_there[kLowOperand] = true;
    operands.formats[kParamStream] = StreamFormat::split;
  }
  for (const TensorView& view : operands.views)
    if (view.kind == ArrayKind::dlpack)
      owners_.push_back(view.owner);
  if (memory_) {
    memory_->add(param, "params", index, true);
    if (operands.is_there[kGradStream])
      memory_->add(own[kGradStream], "grads", index, writes_gradient);
    for (size_t slot = 0; slot < names_->slots.size(); ++slot)
      if (is_given(int(slot)))
        memory_->add(own[names_->stream(slot)], names_->slots[slot].c_str(), index, true);
    if (operands.is_there[kLowOperand])
      memory_->add(own[kLowOperand], "master_low", index, true);
  }
  if (codes && Walks(operands).count > 1)
    make_one_walk(operands, *codes, writes_gradient);
  add_walks(operands, setting, int32_t(number));
}

void OptimizerStep::check_gradients() const {
  // A table of twice as many places, open addressing: for thousands it must not show.
  size_t places = 16;
  while (places < 2 * arrays_.size())
    places *= 2;
  std::vector<const void*> seen(places);
  for (const OptimizerArray& array : arrays_) {
    const void* grad = array.streams[kGradStream];
    if (!grad || !array.size)
      continue;
    size_t place = size_t(reinterpret_cast<uintptr_t>(grad) * 0x9e3779b97f4a7c15u >> 20);
    while (seen[place &= places - 1] && seen[place] != grad)
      ++place;
    DLK_CHECK(!seen[place], names_->operation,
              ": grads: expected a gradient of its own for every parameter where the step writes "
              "gradients, got one for two parameters");
    seen[place] = grad;
  }
}

void OptimizerStep::check_numbers() const {
  const auto is_too_large = [](double number) {
    return std::isfinite(number) && std::isinf(float(number));
  };
  std::vector<const double*> too_large(settings_.size());
  bool any = false;
  for (size_t setting = 0; setting < settings_.size(); ++setting) {
    const double* numbers = settings_[setting].numbers;
    const double* found = std::find_if(numbers, numbers + kOptimizerNumbers, is_too_large);
    if (found == numbers + kOptimizerNumbers)
      continue;
    too_large[setting] = found;
    any = true;
  }
  if (!any)
    return;
  for (const OptimizerArray& array : arrays_) {
    if (!array.streams[kGradStream] || !too_large[size_t(array.setting)])
      continue;
    bool has_double = false;
    for (int stream = 0; stream < kAverageStream; ++stream)
      has_double |=
          array.streams[stream] && layouts_[size_t(array.layout)].dtypes[stream] == DType::float64;
    if (!has_double)
      throw std::overflow_error(text(names_->operation,
                                     ": step: expected numbers that float32 "
                                     "holds, which is computed in, got ",
                                     *too_large[size_t(array.setting)]));
  }
}

void OptimizerStep::run(OptimizerKernel kernel, bool keeps_gil, StepExtras& extras) const {
  check_numbers();
  std::vector<OptimizerChunk> chunks;
  chunks.reserve(arrays_.size());
  OptimizerArgs args{};
  for (size_t array = 0; array < arrays_.size(); ++array) {
    const int64_t size = arrays_[array].size;
    args.total_elems += size;
    for (int64_t begin = 0; begin < size; begin += kPieceElems)
      chunks.push_back({int64_t(array), begin, std::min(size, begin + kPieceElems)});
  }
  args.past_cache = writes_past_cache(args.total_elems * int64_t(sizeof(float)));
  args.arrays = arrays_.data();
  args.layouts = layouts_.data();
  args.settings = settings_.data();
  args.chunks = chunks.data();
  args.chunk_count = int64_t(chunks.size());
  std::vector<double> param_sums;
  if (kernel == &KernelTable::lamb || kernel == &KernelTable::lars)
    param_sums.resize(2 * chunks.size());
  args.param_sums = param_sums.data();
  args.extras.unscale = extras.unscale;
  args.extras.scales = extras.unscale != 1;
  args.extras.write_back = extras.write_back;
  args.extras.zero_grads = extras.zero_grads;
  args.extras.average_copies = extras.average_copies;
  args.extras.average_weight = extras.average_weight;
  const bool clips = extras.max_norm >= 0;
  const bool looks = clips || (extras.skips_nonfinite && !extras.is_skipped);
  std::vector<GradientSums> sums(looks ? chunks.size() : 0);
  args.sums = sums.data();
  if (extras.writes_gradients())
    check_gradients();
  for (const OptimizerArray& array : arrays_)
    if (clips && array.streams[kGradStream] &&
        layouts_[size_t(array.layout)].dtypes[kGradStream] == DType::float64)
      extras.norm_is_double = true;
  without_gil(names_->operation.c_str(), keeps_gil ? 0 : args.total_elems, [&] {
    const KernelTable& table = runtime::kernels();
    if (looks) {
      table.grad_norm(args);
      GradientSums total{0, 0};
      for (const GradientSums& piece : sums) { // the same order for any number of threads
        total.squares += piece.squares;
        total.probe += piece.probe;
      }
      extras.norm = std::sqrt(total.squares);
      extras.is_skipped = extras.is_skipped || (extras.skips_nonfinite && total.probe != 0);
    }
    if (clips) {
      args.extras.clip = extras.norm_is_double
                             ? clip_coefficient<double>(extras.norm, extras.max_norm)
                             : clip_coefficient<float>(extras.norm, extras.max_norm);
      args.extras.scales = args.extras.scales || args.extras.clip != 1;
    }
    if (!extras.is_skipped)
      (table.*kernel)(args);
    else if (extras.writes_gradients())
      table.finish_gradients(args);
  });
  for (const auto& [source, destination] : copies_) {
    TensorView target = destination;
    copy_elements(source, target);
  }
}

} // namespace dlk
