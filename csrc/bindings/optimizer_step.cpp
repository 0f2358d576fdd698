#include "bindings/optimizer_step.h"

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

int32_t OptimizerStep::add_setting(const OptimizerSetting& setting) {
  settings_.push_back(setting);
  return int32_t(settings_.size() - 1);
}

int32_t OptimizerStep::add_setting(const py::tuple& numbers) {
  OptimizerSetting setting{};
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

void OptimizerStep::add_flat(void* const* streams, const DType* dtypes, int64_t size,
                             int32_t setting) {
  OptimizerArray& array = arrays_.emplace_back();
  std::copy_n(streams, kOptimizerStreams, array.streams);
  array.size = size;
  array.setting = setting;
  array.param = param_count_++;
  const auto is_alike = [&](int stream) {
    return dtypes[stream] == dtypes[0] || !streams[stream];
  };
  bool plain = true;
  for (int stream = 1; stream < kAverageStream; ++stream)
    plain = plain && is_alike(stream);
  const bool all_alike = plain && is_alike(kAverageStream);
  int32_t& known = plain_layouts_[int(dtypes[0])];
  if (all_alike && known >= 0) {
    array.layout = known;
    return;
  }
  OptimizerLayout own;
  std::memset(&own, 0, sizeof own); // compared by its bytes
  own.plain = plain;
  for (int stream = 0; stream < kOptimizerStreams; ++stream) {
    own.strides[stream] = 1;
    own.dtypes[stream] = streams[stream] ? dtypes[stream] : dtypes[0];
  }
  array.layout = layout(own);
  if (all_alike)
    known = array.layout;
}

void OptimizerStep::add_walks(const TensorView* const* views, int32_t setting) {
  struct Dim {
    int64_t size, strides[kOptimizerStreams];
  };
  const TensorView& param = *views[0];
  Dim dims[kMaxDims];
  int count = 0;
  for (int dim = 0; dim < param.ndim; ++dim) {
    if (param.shape[dim] == 0)
      return;
    if (param.shape[dim] == 1)
      continue;
    dims[count].size = param.shape[dim];
    for (int stream = 0; stream < kOptimizerStreams; ++stream)
      dims[count].strides[stream] = (views[stream] ? *views[stream] : param).strides[dim];
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
      for (int stream = 0; stream < kOptimizerStreams; ++stream)
        joins = joins && outer.strides[stream] == inner.strides[stream] * inner.size;
      if (joins) {
        const int64_t size = outer.size * inner.size;
        outer = inner;
        outer.size = size;
        continue;
      }
    }
    dims[kept++] = dims[dim];
  }
  OptimizerLayout own;
  std::memset(&own, 0, sizeof own);
  own.plain = true;
  for (int stream = 0; stream < kOptimizerStreams; ++stream) {
    own.dtypes[stream] = (views[stream] ? *views[stream] : param).dtype;
    own.strides[stream] = kept && views[stream] ? dims[kept - 1].strides[stream] : 1;
    if (stream < kAverageStream)
      own.plain = own.plain && own.dtypes[stream] == param.dtype && own.strides[stream] == 1;
  }
  OptimizerArray array{};
  array.size = kept ? dims[kept - 1].size : 1;
  array.layout = layout(own);
  array.setting = setting;
  array.param = param_count_++;
  int64_t index[kMaxDims] = {};
  while (true) {
    for (int stream = 0; stream < kOptimizerStreams; ++stream) {
      if (!views[stream])
        continue;
      int64_t offset = 0;
      for (int dim = 0; dim < kept - 1; ++dim)
        offset += index[dim] * dims[dim].strides[stream];
      array.streams[stream] =
          static_cast<char*>(views[stream]->data) + offset * item_size(views[stream]->dtype);
    }
    arrays_.push_back(array);
    array.offset += array.size;
    int dim = kept - 2;
    while (dim >= 0 && ++index[dim] == dims[dim].size)
      index[dim--] = 0;
    if (dim < 0)
      return;
  }
}

void OptimizerStep::add(py::handle param_object, py::handle grad_object, PyObject* const* states,
                        int32_t setting, bool writes_gradient, size_t index) {
  const char* operation = names_->operation.c_str();
  TensorView own[kOptimizerStreams];
  const TensorView* views[kOptimizerStreams] = {&own[0]};
  own[0] = output_view_of(param_object, operation, "params");
  const TensorView& param = own[0];
  const auto check = [&](const TensorView& view, const char* name) {
    check_floating(view, operation, name);
    DLK_CHECK(same_shape(view, param), operation, ": ", name, "[", index, "]: expected shape ",
              shape_text(param), ", got ", shape_text(view));
  };
  check(param, "params");
  if (!grad_object.is_none()) {
    own[kGradStream] = writes_gradient ? output_view_of(grad_object, operation, "grads")
                                       : view_of(grad_object, operation, "grads");
    check(own[kGradStream], "grads");
    views[kGradStream] = &own[kGradStream];
  }
  for (size_t slot = 0; slot < names_->slots.size(); ++slot) {
    if (!states[slot] || states[slot] == Py_None)
      continue;
    const char* name = names_->slots[slot].c_str();
    const int stream = names_->stream(slot);
    TensorView& view = own[stream];
    view = output_view_of(states[slot], operation, name);
    check(view, name);
    views[stream] = &view;
  }
  add_walks(views, setting);
  for (const TensorView& view : own)
    if (view.kind == ArrayKind::dlpack)
      owners_.push_back(view.owner);
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

void OptimizerStep::run(OptimizerKernel kernel, bool keeps_gil, StepExtras& extras) const {
  std::vector<OptimizerChunk> chunks;
  chunks.reserve(arrays_.size());
  OptimizerArgs args{};
  for (size_t array = 0; array < arrays_.size(); ++array) {
    const int64_t size = arrays_[array].size;
    args.total_elems += size;
    for (int64_t begin = 0; begin < size; begin += kPieceElems)
      chunks.push_back({int64_t(array), begin, std::min(size, begin + kPieceElems)});
  }
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
  without_gil(keeps_gil ? 0 : args.total_elems, [&] {
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
}

} // namespace dlk
