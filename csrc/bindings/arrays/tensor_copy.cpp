// Copies between strided views, and whether two views share memory.
#include "bindings/arrays/tensor.h"
#include "core/strided.h"
#include "runtime/threads.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace dlk {
namespace {

// Elements one chunk of a copy has at least.
constexpr int64_t kCopyChunkElems = runtime::kGrainElems;

// A copy with as few dimensions as the strides allow, outermost of the destination first. Strides
// are in bytes.
struct Copy {
  const char* source;
  char* destination;
  int ndim = 0;
  int64_t shape[kMaxDims], source_strides[kMaxDims], destination_strides[kMaxDims];
  int64_t row_blocks, blocks_per_chunk; // a row is the innermost dimension
  int64_t item_bytes;
};

template <class T>
void copy_row(const char* source, char* destination, int64_t size, int64_t source_stride,
              int64_t destination_stride) {
  for (int64_t i = 0; i < size; ++i) {
    T value; // through memcpy: neither side need be aligned
    std::memcpy(&value, source + i * source_stride, sizeof(T));
    std::memcpy(destination + i * destination_stride, &value, sizeof(T));
  }
}

void copy_blocks(const Copy& copy, int64_t begin, int64_t end) {
  const int inner = copy.ndim - 1;
  const int64_t row_elems = copy.shape[inner];
  const int64_t source_stride = copy.source_strides[inner];
  const int64_t destination_stride = copy.destination_strides[inner];
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block % copy.row_blocks * kCopyChunkElems;
    const int64_t size = std::min(kCopyChunkElems, row_elems - first);
    const char* source = copy.source + first * source_stride;
    char* destination = copy.destination + first * destination_stride;
    int64_t row = block / copy.row_blocks;
    for (int dim = inner - 1; dim >= 0; --dim) {
      const int64_t index = row % copy.shape[dim];
      row /= copy.shape[dim];
      source += index * copy.source_strides[dim];
      destination += index * copy.destination_strides[dim];
    }
    if (source_stride == copy.item_bytes && destination_stride == copy.item_bytes)
      std::memcpy(destination, source, static_cast<size_t>(size * copy.item_bytes));
    else if (copy.item_bytes == 8)
      copy_row<uint64_t>(source, destination, size, source_stride, destination_stride);
    else if (copy.item_bytes == 4)
      copy_row<uint32_t>(source, destination, size, source_stride, destination_stride);
    else if (copy.item_bytes == 2)
      copy_row<uint16_t>(source, destination, size, source_stride, destination_stride);
    else
      copy_row<uint8_t>(source, destination, size, source_stride, destination_stride);
  }
}

// The bytes a view spans, and the strides of its dimensions of more than one element.
struct Span {
  uintptr_t low, high;
  int ndim = 0;
  int64_t shape[kMaxDims], stride_bytes[kMaxDims]; // strides made positive

  explicit Span(const TensorView& view) {
    const int64_t item_bytes = item_size(view.dtype);
    low = reinterpret_cast<uintptr_t>(view.data);
    high = low + item_bytes;
    for (int dim = 0; dim < view.ndim; ++dim) {
      if (view.shape[dim] <= 1 || view.strides[dim] == 0)
        continue;
      const int64_t stride = view.strides[dim] * item_bytes;
      (stride < 0 ? low : high) += stride * (view.shape[dim] - 1);
      shape[ndim] = view.shape[dim];
      stride_bytes[ndim++] = std::llabs(stride);
    }
  }
};

// Whether two spans lie apart in every window of `window` bytes: then no byte is shared. Holds only
// where the strides from `window` up are multiples of it.
bool apart_in_windows(const Span& a, int64_t a_item, const Span& b, int64_t b_item,
                      int64_t window) {
  int64_t extents[2] = {a_item, b_item};
  const Span* spans[2] = {&a, &b};
  for (int which = 0; which < 2; ++which)
    for (int dim = 0; dim < spans[which]->ndim; ++dim) {
      const int64_t stride = spans[which]->stride_bytes[dim];
      if (stride < window)
        extents[which] += stride * (spans[which]->shape[dim] - 1);
      else if (stride % window != 0)
        return false;
    }
  const int64_t distance = static_cast<int64_t>(
      b.low >= a.low ? (b.low - a.low) % window : (window - (a.low - b.low) % window) % window);
  return extents[0] <= distance && distance + extents[1] <= window;
}

// Two elements of a view lie in one place if some steps along its dimensions, not all 0, lead back
// to the start.
struct Steps {
  explicit Steps(const TensorView& view) {
    for (int dim = 0; dim < view.ndim; ++dim) {
      if (view.shape[dim] <= 1)
        continue;
      int place = ndim++;
      for (; place > 0 && strides[place - 1] < std::llabs(view.strides[dim]); --place) {
        strides[place] = strides[place - 1];
        most[place] = most[place - 1];
      }
      strides[place] = std::llabs(view.strides[dim]);
      most[place] = view.shape[dim] - 1;
    }
    for (int dim = ndim; dim > 0; --dim)
      reach[dim - 1] = reach[dim] + strides[dim - 1] * most[dim - 1];
  }

  // Whether steps along dimensions `dim` and after lead from `distance` to 0, tried from the
  // largest stride down: only as many as the dimensions after it can make up for. Those of nested
  // strides can make up for none.
  bool meet(int dim, int64_t distance, bool moved) {
    if (dim == ndim)
      return moved && distance == 0;
    if (--tries < 0)
      return true;
    const int64_t stride = strides[dim], rest = reach[dim + 1];
    // distance + step * stride within [-rest, rest]; the first step of all goes forward.
    const int64_t first = std::max(moved ? -most[dim] : 0, -((rest + distance) / stride));
    const int64_t last = std::min(most[dim], (rest - distance) / stride);
    for (int64_t step = first; step <= last; ++step)
      if (meet(dim + 1, distance + step * stride, moved || step != 0))
        return true;
    return false;
  }

  int ndim = 0;
  int tries = 10000;
  int64_t strides[kMaxDims], most[kMaxDims]; // from the largest stride down
  int64_t reach[kMaxDims + 1] = {};          // how far the dimensions from here on lead at most
};

bool same_place(const TensorView& a, const TensorView& b) {
  if (a.data != b.data || a.ndim != b.ndim || item_size(a.dtype) != item_size(b.dtype))
    return false;
  for (int dim = 0; dim < a.ndim; ++dim)
    if (a.shape[dim] != b.shape[dim] || (a.shape[dim] > 1 && a.strides[dim] != b.strides[dim]))
      return false;
  return true;
}

} // namespace

void copy_elements(const TensorView& source, TensorView& destination) {
  if (source.size() == 0)
    return;
  Copy copy;
  copy.source = static_cast<const char*>(source.data);
  copy.destination = static_cast<char*>(destination.data);
  copy.item_bytes = item_size(source.dtype);

  int order[kMaxDims];
  int count = 0;
  for (int dim = 0; dim < source.ndim; ++dim)
    if (source.shape[dim] != 1)
      order[count++] = dim;
  for (int i = 1; i < count; ++i) // few and mostly in order
    for (int j = i; j > 0 && std::llabs(destination.strides[order[j - 1]]) <
                                 std::llabs(destination.strides[order[j]]);
         --j)
      std::swap(order[j - 1], order[j]);
  for (int i = 0; i < count; ++i) {
    const int64_t size = source.shape[order[i]];
    const int64_t source_stride = source.strides[order[i]] * copy.item_bytes;
    const int64_t destination_stride = destination.strides[order[i]] * copy.item_bytes;
    const int last = copy.ndim - 1;
    const bool joins = last >= 0 && copy.source_strides[last] == source_stride * size &&
                       copy.destination_strides[last] == destination_stride * size;
    const int dim = joins ? last : copy.ndim++;
    copy.shape[dim] = joins ? copy.shape[dim] * size : size;
    copy.source_strides[dim] = source_stride;
    copy.destination_strides[dim] = destination_stride;
  }
  if (copy.ndim == 0) { // one element
    std::memcpy(copy.destination, copy.source, static_cast<size_t>(copy.item_bytes));
    return;
  }

  const int64_t row_elems = copy.shape[copy.ndim - 1];
  copy.row_blocks = chunk_count(row_elems, kCopyChunkElems);
  copy.blocks_per_chunk = chunk_count(kCopyChunkElems, std::min(row_elems, kCopyChunkElems));
  const int64_t blocks = source.size() / row_elems * copy.row_blocks;
  struct Context {
    const Copy* copy;
    int64_t blocks;
  } context{&copy, blocks};
  runtime::parallel_for(
      chunk_count(blocks, copy.blocks_per_chunk), source.size(),
      [](void* opaque, int64_t begin, int64_t end, int) noexcept {
        const Context& context = *static_cast<Context*>(opaque);
        const int64_t per_chunk = context.copy->blocks_per_chunk;
        copy_blocks(*context.copy, begin * per_chunk, std::min(end * per_chunk, context.blocks));
      },
      &context);
}

bool share_memory(const TensorView& first, const TensorView& second) {
  if (first.size() == 0 || second.size() == 0)
    return false;
  const Span a(first), b(second);
  if (a.high <= b.low || b.high <= a.low)
    return false;
  // Interleaved spans, as of x[::2] and x[1::2] or of columns of one matrix.
  const int64_t a_item = item_size(first.dtype), b_item = item_size(second.dtype);
  int64_t common = 0;
  for (const Span* span : {&a, &b})
    for (int dim = 0; dim < span->ndim; ++dim) {
      common = std::gcd(common, span->stride_bytes[dim]);
      if (apart_in_windows(a, a_item, b, b_item, span->stride_bytes[dim]))
        return false;
    }
  return common == 0 || !apart_in_windows(a, a_item, b, b_item, common);
}

bool overlaps_itself(const TensorView& view) {
  if (view.dense() || view.size() == 0)
    return false;
  for (int dim = 0; dim < view.ndim; ++dim)
    if (view.shape[dim] > 1 && view.strides[dim] == 0)
      return true;
  Steps steps(view);
  return steps.meet(0, 0, false);
}

void check_overlap(const TensorView& out, const TensorView& in, const char* operation,
                   const char* out_argument, const char* in_argument) {
  DLK_CHECK(same_place(out, in) || !share_memory(out, in), operation, ": ", out_argument,
            ": expected memory that is exactly ", in_argument,
            "'s or shares nothing with it, got a ", "partial overlap");
}

} // namespace dlk
