// Rules whose step depends on norms of whole parameters: two passes over the table of pieces, each
// one parallel region.
//
//   template <class Kind> struct Sums {         // pass 1; Kind: see below
//     static constexpr bool kIsLast = false;    // of the two passes
//     static constexpr int kReads, kWrites;     // bit k: stream k (parameter, gradient, states)
//     explicit Sums(const double* numbers);
//     void step(Vec<C>* x);                     // one vector of every stream, in registers
//     Wide<C> sums[2];
//   };
//   double factor(const double* numbers, double sum0, double sum1);  // of one parameter
//   template <class Kind> struct Step {         // pass 2, the same but for
//     explicit Step(const double* numbers, double factor);
//   };
//
// The sums are of doubles: each piece's lanes in one fixed order, and the pieces of a parameter in
// theirs, so the bits do not depend on threads. They do depend on how a parameter is cut into
// pieces: every 16384 elements, where its strides join into one.
#pragma once

#include "kernels/common/double_sums.h"
#include "kernels/optim/loop.h"

namespace dlk::DLK_ISA {

// What a pass computes in, and whether what it stores is rounded, so that another pass has to start
// from the same streams to come to the same numbers.
template <class ComputeType, bool kRoundsStored> struct PassKind {
  using C = ComputeType;
  static constexpr bool kRounds = kRoundsStored;
};

// A piece whose streams are of one type and side by side.
template <class T, class Pass>
DLK_INLINE void pass_over_streams(Pass& pass, void* const* streams, int64_t begin, int64_t size) {
  using C = Compute<T>;
  for_each_vec<C>(size, [&](int64_t i, auto lanes) DLK_BODY {
    Vec<C> x[kOptimizerStreams];
    for (int k = 0; k < kOptimizerStreams; ++k)
      if (Pass::kReads >> k & 1) {
        const T* source = static_cast<const T*>(streams[k]) + begin + i;
        x[k] = load_lanes(source, lanes);
      }
    pass.step(x);
    for (int k = 0; k < kOptimizerStreams; ++k)
      if (Pass::kWrites >> k & 1)
        store_lanes(static_cast<T*>(streams[k]) + begin + i, x[k], lanes);
  });
}

// One with gaps, of several dtypes, or with something besides the rule.
template <class C, class Pass>
DLK_BLOCK void pass_over_blocks(Pass& pass, const OptimizerExtras& extras_of_step,
                                const OptimizerArray& array, const OptimizerLayout& layout,
                                const OptimizerSetting& setting, int64_t begin, int64_t end) {
  OptimizerExtras extras = extras_of_step;
  if (!Pass::kIsLast) // the last reads the gradient as it came
    extras.write_back = false;
  RuleBlocks<C> blocks;
  for (int64_t first = begin; first < end; first += kOptimizerBlock) {
    const int64_t size = end - first < kOptimizerBlock ? end - first : kOptimizerBlock;
    blocks.open(extras, array, layout, first, size);
    pass_over_streams<C>(pass, blocks.pointers, 0, size);
    if (Pass::kWrites)
      blocks.close(array, layout, setting, first, size);
    if (Pass::kIsLast)
      finish_block(extras, array, layout, first, size);
  }
}

// make(PassKind) gives the pass, finish(pass) takes what is left of it.
template <class Make, class Finish>
DLK_BLOCK void pass_over_piece(const OptimizerArgs& args, const OptimizerChunk& chunk, Make make,
                               Finish finish) {
  const OptimizerArray& array = args.arrays[chunk.array];
  const OptimizerLayout& layout = args.layouts[array.layout];
  if (is_bare(args.extras, array, layout))
    return with_storage_type(layout.dtypes[0], [&](auto type) DLK_BODY {
      using T = decltype(type);
      auto pass = make(PassKind<Compute<T>, kIsHalf<T>>{});
      pass_over_streams<T>(pass, array.streams, chunk.begin, chunk.end - chunk.begin);
      finish(pass);
    });
  bool has_double = false;
  for (int k = 0; k < kAverageStream; ++k)
    has_double |= array.streams[k] && layout.dtypes[k] == DType::float64;
  const auto in = [&](auto kind) DLK_BODY {
    auto pass = make(kind);
    pass_over_blocks<typename decltype(kind)::C>(
        pass, args.extras, array, layout, args.settings[array.setting], chunk.begin, chunk.end);
    finish(pass);
  };
  if (has_double)
    in(PassKind<double, true>{});
  else
    in(PassKind<float, true>{});
}

// From each piece's sums to each parameter's factor, which takes the place of the first of them.
template <class Factor> DLK_INLINE void combine_sums(const OptimizerArgs& args, Factor factor) {
  for (int64_t begin = 0, end = 0; begin < args.chunk_count; begin = end) {
    const auto array_of = [&](int64_t chunk) -> const OptimizerArray& {
      return args.arrays[args.chunks[chunk].array];
    };
    double sums[2] = {};
    for (; end < args.chunk_count && array_of(end).param == array_of(begin).param; ++end) {
      sums[0] += args.param_sums[2 * end];
      sums[1] += args.param_sums[2 * end + 1];
    }
    const double own = factor(args.settings[array_of(begin).setting].numbers, sums[0], sums[1]);
    for (int64_t chunk = begin; chunk < end; ++chunk)
      args.param_sums[2 * chunk] = own;
  }
}

template <template <class> class Sums> DLK_INLINE void sum_pieces(const OptimizerArgs& args) {
  parallel_chunks(args.chunk_count, args.total_elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) {
      const OptimizerChunk& chunk = args.chunks[index];
      const OptimizerArray& array = args.arrays[chunk.array];
      args.param_sums[2 * index] = args.param_sums[2 * index + 1] = 0;
      if (!array.streams[kGradStream])
        continue;
      const double* numbers = args.settings[array.setting].numbers;
      pass_over_piece(
          args, chunk, [&](auto kind) DLK_BODY { return Sums<decltype(kind)>(numbers); },
          [&](const auto& pass) DLK_BODY {
            args.param_sums[2 * index] = sum_lanes(pass.sums[0]);
            args.param_sums[2 * index + 1] = sum_lanes(pass.sums[1]);
          });
    }
  });
}

template <template <class> class Step>
DLK_INLINE void step_piece(const OptimizerArgs& args, int64_t index) {
  const OptimizerChunk& chunk = args.chunks[index];
  const OptimizerArray& array = args.arrays[chunk.array];
  if (!array.streams[kGradStream])
    return average_piece(args.extras, array, args.layouts[array.layout], chunk.begin, chunk.end);
  const double* numbers = args.settings[array.setting].numbers;
  pass_over_piece(
      args, chunk,
      [&](auto kind) DLK_BODY { return Step<decltype(kind)>(numbers, args.param_sums[2 * index]); },
      [](const auto&) DLK_BODY {});
}

// body(index) for every piece, shared out among threads.
template <class Body> DLK_INLINE void each_piece(const OptimizerArgs& args, Body body) {
  parallel_chunks(args.chunk_count, args.total_elems, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index)
      body(index);
  });
}

} // namespace dlk::DLK_ISA
