#include "bindings/arrays/shared_memory.h"

#include <algorithm>
#include <cstring>

namespace dlk {
namespace {

// The bytes from one to another, as an array.
TensorView bytes_between(uintptr_t low, uintptr_t high) {
  TensorView view;
  view.data = reinterpret_cast<void*>(low);
  view.dtype = DType::uint8;
  view.ndim = 1;
  view.shape[0] = int64_t(high - low);
  view.strides[0] = 1;
  return view;
}

} // namespace

void SharedMemory::add(const TensorView& view, const char* name, size_t index, bool is_written) {
  if (view.size() == 0)
    return;
  int64_t first = 0, last = 0; // offsets of elements
  for (int dim = 0; dim < view.ndim; ++dim)
    (view.strides[dim] < 0 ? first : last) += view.strides[dim] * (view.shape[dim] - 1);
  const int64_t item_bytes = item_size(view.dtype);
  const auto data = reinterpret_cast<uintptr_t>(view.data);
  const TensorView* kept = view.contiguous() ? nullptr : &views_.emplace_back(view);
  arrays_.push_back({data + uintptr_t(first * item_bytes),
                     data + uintptr_t((last + 1) * item_bytes), name, index, is_written, kept});
}

void SharedMemory::add(const FlatView& view, const char* name, size_t index, bool is_written) {
  const auto data = reinterpret_cast<uintptr_t>(view.data);
  if (view.size)
    arrays_.push_back({data, data + uintptr_t(view.size * item_size(view.dtype)), name, index,
                       is_written, nullptr});
}

// Which of two keeps its memory: one that is written, the parameter of the two, the first.
bool SharedMemory::is_before(const Array& a, const Array& b) {
  const auto is_param = [](const Array& array) { return std::strcmp(array.name, "params") == 0; };
  if (a.is_written != b.is_written)
    return a.is_written;
  if (is_param(a) != is_param(b))
    return is_param(a);
  return a.index < b.index;
}

// Of two arrays of one shape.
bool SharedMemory::same_place(const Array& a, const Array& b) {
  if (a.low != b.low || a.high != b.high || !a.view != !b.view)
    return false;
  return !a.view || std::equal(a.view->strides, a.view->strides + a.view->ndim, b.view->strides);
}

bool SharedMemory::share(const Array& a, const Array& b) const {
  if (!a.is_written && !b.is_written)
    return false;
  if (allowed_ && a.is_written != b.is_written && a.index == b.index && same_place(a, b) &&
      std::strcmp((a.is_written ? a : b).name, allowed_) == 0)
    return false;
  if (!a.view && !b.view)
    return true;
  return share_memory(a.view ? *a.view : bytes_between(a.low, a.high),
                      b.view ? *b.view : bytes_between(b.low, b.high));
}

std::string SharedMemory::find() {
  std::sort(arrays_.begin(), arrays_.end(),
            [](const Array& a, const Array& b) { return a.low < b.low; });
  std::vector<const Array*> open; // those that reach to the next one, or beyond
  for (const Array& next : arrays_) {
    open.erase(std::remove_if(open.begin(), open.end(),
                              [&](const Array* array) { return array->high <= next.low; }),
               open.end());
    for (const Array* array : open)
      if (share(*array, next)) {
        const Array *kept = array, *other = &next;
        if (is_before(next, *array))
          std::swap(kept, other);
        return text(other->name, "[", other->index, "]: expected memory of its own, got memory of ",
                    kept->name, "[", kept->index, "]");
      }
    open.push_back(&next);
  }
  return {};
}

} // namespace dlk
