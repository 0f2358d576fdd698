// OptimizerStep: the kernel call.
#include "bindings/call.h"
#include "bindings/optim/optimizer_step.h"

#include <algorithm>
#include <cmath>

namespace dlk {
namespace {

// Elements of a piece: 64 KB of float32.
constexpr int64_t kPieceElems = 16384;
static_assert(kPieceElems % kOptimizerBlock == 0);

// torch.nn.utils.clip_grads_with_norm_: max_norm / (norm + 1e-6), where torch divides by a tensor
// as the product with its reciprocal, in the norm's dtype.
template <class C> double clip_coefficient(double norm, double max_norm) {
  const C reciprocal = C(1) / (C(norm) + C(1e-6));
  const C coefficient = reciprocal * C(max_norm);
  return coefficient > 1 ? 1 : double(coefficient);
}

} // namespace

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

void OptimizerStep::run(const RuleKernel& kernel, bool keeps_gil, StepExtras& extras) const {
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
  if (kernel.traits & kSumsOverParameters)
    param_sums.resize(2 * chunks.size());
  args.param_sums = param_sums.data();
  args.extras.unscale = extras.unscale;
  args.extras.scales = extras.unscale != 1;
  args.extras.write_back = extras.write_back;
  args.extras.zero_grads = extras.zero_grads;
  args.extras.average_copies = extras.average_copies;
  args.extras.average_weight = extras.average_weight;
  const bool clips = extras.max_norm >= 0;
  const bool reads_first = clips || (extras.skips_nonfinite && !extras.is_skipped);
  std::vector<GradientSums> sums(reads_first ? chunks.size() : 0);
  args.sums = sums.data();
  if (extras.writes_gradients())
    check_gradients();
  for (const OptimizerArray& array : arrays_)
    if (clips && array.streams[kGradStream] &&
        layouts_[size_t(array.layout)].dtypes[kGradStream] == DType::float64)
      extras.norm_is_double = true;
  without_gil(names_->operation.c_str(), keeps_gil ? 0 : args.total_elems, [&] {
    const KernelTable& table = runtime::kernels();
    if (reads_first) {
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
      (table.*kernel.function)(args);
    else if (extras.writes_gradients())
      table.finish_gradients(args);
  });
  for (const auto& [source, destination] : copies_) {
    TensorView target = destination;
    copy_elements(source, target);
  }
}

} // namespace dlk
