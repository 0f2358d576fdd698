// Checks integer class targets before a loss writes anything: finds the first one out of range, how
// many are not ignored, and the sum of their weights (the divisor of a mean).
//
// Bytes: the targets once. Sums of weights are in double, in chunks of fixed size, so the divisor
// is exact for half types (torch sums bfloat16 weights in bfloat16).
#include "kernels/class_losses/targets.h"

namespace dlk::DLK_ISA {
namespace {

constexpr int64_t kChunkRows = 4096;
constexpr int64_t kMaxChunks = 256; // more rows than this many chunks make longer chunks

template <class T> void look_over(ClassTargetsArgs& args) {
  const T* weight = static_cast<const T*>(args.weight);
  const int64_t rows = args.batches * args.positions;
  int64_t per_chunk = kChunkRows;
  while (chunk_count(rows, per_chunk) > kMaxChunks)
    per_chunk *= 2;
  const int64_t chunks = chunk_count(rows, per_chunk);
  double weight_sums[kMaxChunks];
  int64_t counts[kMaxChunks], bad_rows[kMaxChunks];
  parallel_chunks(chunks, rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      CompensatedSum weight_sum;
      int64_t count = 0, bad_row = -1;
      const int64_t stop = (chunk + 1) * per_chunk < rows ? (chunk + 1) * per_chunk : rows;
      for (int64_t row = chunk * per_chunk; row < stop; ++row) {
        const int64_t target = load_index(args.target, row / args.positions, row % args.positions);
        // A uint64 above 2^63 is read as a negative number, and is none.
        const bool is_huge = args.target.dtype == DType::uint64 && target < 0;
        if (target == args.ignore_index && !is_huge)
          continue;
        if (target < 0 || target >= args.classes) {
          bad_row = row;
          break;
        }
        ++count;
        if (weight)
          weight_sum.add(double(load_scalar(weight + target)));
      }
      weight_sums[chunk] = weight ? weight_sum.total() : double(count);
      counts[chunk] = count;
      bad_rows[chunk] = bad_row;
    }
  });
  CompensatedSum weight_sum;
  args.counted = 0;
  args.out_of_bounds = false;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    weight_sum.add(weight_sums[chunk]);
    args.counted += counts[chunk];
    if (bad_rows[chunk] >= 0 && !args.out_of_bounds) {
      args.out_of_bounds = true;
      args.bad_target = load_index(args.target, bad_rows[chunk] / args.positions,
                                   bad_rows[chunk] % args.positions);
    }
  }
  args.weight_sum = weight_sum.total();
}

} // namespace

void class_targets(ClassTargetsArgs& args) noexcept {
  with_storage_type(args.weight_dtype, [&](auto type) { look_over<decltype(type)>(args); });
}

} // namespace dlk::DLK_ISA
